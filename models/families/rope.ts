/**
 * Rotary position settings in their two spellings: `rope_theta` and `rope_scaling` at the top level (every config.json
 * before transformers 5) and one `rope_parameters` object (since). A file may hold both if they agree.
 */
import type { RopeConfig } from '../config.ts';
import type { ConfigFields } from './config-fields.ts';

const THETA = { min: 1, max: 1e12 };
const FACTOR = { min: 1, max: 1e6 };
const POSITIONS = { min: 1, max: 2 ** 28 };
const DEFAULT_THETA = 10_000;

export function parseRope(fields: ConfigFields): RopeConfig {
  refusePartialRotary(fields);
  const legacy = fields.object('rope_scaling');
  const current = fields.object('rope_parameters');
  const legacyTheta = (fields.raw('rope_theta') ?? null) === null ? null : fields.number('rope_theta', THETA);
  if (current === null) {
    // Early versions of transformers 5 wrote the theta into rope_scaling.
    const theta = legacyTheta ?? legacy?.number('rope_theta', THETA, DEFAULT_THETA) ?? DEFAULT_THETA;
    return { theta, scaling: legacy === null ? null : parseScaling(legacy) };
  }
  const theta = current.number('rope_theta', THETA, legacyTheta ?? DEFAULT_THETA);
  const scaling = parseScaling(current);
  if (legacyTheta !== null && legacyTheta !== theta) {
    throw fields.invalid('rope_theta', `is ${legacyTheta}, but rope_parameters.rope_theta is ${theta}`);
  }
  if (legacy !== null && JSON.stringify(parseScaling(legacy)) !== JSON.stringify(scaling)) {
    throw fields.invalid('rope_scaling', 'and rope_parameters describe different scalings');
  }
  return { theta, scaling };
}

function parseScaling(scaling: ConfigFields): RopeConfig['scaling'] {
  refusePartialRotary(scaling);
  // `type` is the spelling of transformers before 4.43.
  const kind = scaling.has('rope_type') ? scaling.text('rope_type') : scaling.text('type', 'default');
  switch (kind) {
    case 'default':
      return null;
    case 'linear': {
      const factor = scaling.number('factor', FACTOR);
      return factor === 1 ? null : { kind: 'linear', factor };
    }
    case 'llama3': {
      const lowFreqFactor = scaling.number('low_freq_factor', { min: Number.MIN_VALUE, max: 1e6 });
      const highFreqFactor = scaling.number('high_freq_factor', { min: Number.MIN_VALUE, max: 1e6 });
      // The formula divides by their difference.
      if (!(lowFreqFactor < highFreqFactor)) {
        throw scaling.invalid('low_freq_factor', `is ${lowFreqFactor}; it must be less than ${highFreqFactor}`);
      }
      return {
        kind: 'llama3',
        factor: scaling.number('factor', FACTOR),
        lowFreqFactor,
        highFreqFactor,
        originalMaxPositions: scaling.integer('original_max_position_embeddings', POSITIONS),
      };
    }
    default:
      throw scaling.unsupported('rope_type', `is ${JSON.stringify(kind)}; known are "default", "linear" and "llama3"`);
  }
}

function refusePartialRotary(fields: ConfigFields): void {
  const fraction = fields.number('partial_rotary_factor', { min: 0, max: 1 }, 1);
  if (fraction !== 1) {
    throw fields.unsupported('partial_rotary_factor', `is ${fraction}; only full rotary embeddings are supported`);
  }
}
