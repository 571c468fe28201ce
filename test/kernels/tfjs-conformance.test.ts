/**
 * The backend `native` must be a tfjs backend: tfjs-core's own op tests, which its npm package ships, run against it.
 * Kernels that are not native run through the host fallback there, so that what is tested is tfjs as a whole.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { addonMissing } from '../../kernels/addon.ts';
import { runConformance } from './conformance/run.ts';
import type { ConformanceResult } from './conformance/suite.ts';

/** Specs about dtypes that `native` does not have: complex numbers, and strings anywhere but on the host. */
const leftOut = 'complex|Complex|FFT|stft|spectral|string|Mixed dtype|upcasts when dtypes';

/** Specs that may fail, and why. */
const knownFailures: Readonly<Record<string, string>> = {
  'exp native {} int32': 'e^10 is rounded to the neighbour of the nearest float: 0.51 ulp; the spec allows 0.49',
  'gather native {} throws when index is out of bound':
    'looking at the indices would wait for the stream; an index outside gives zeros',
  'squeeze native {} default': 'fills a tensor with strings',
  'squeeze native {} specific dimension': 'fills a tensor with strings',
  'squeeze native {} all ones': 'fills a tensor with strings',
  'squeeze native {} squeeze only ones': 'fills a tensor with strings',
};

/** Kernels of the models here, composed forms included: none may run on the host. */
const neverOnTheHost = [
  ...['Add', 'AddN', 'Sub', 'Multiply', 'RealDiv', 'Maximum', 'Minimum', 'SquaredDifference', 'Neg', 'Abs', 'Square'],
  ...['Exp', 'Log', 'Log1p', 'Sqrt', 'Rsqrt', 'Reciprocal', 'Sigmoid', 'Softplus', 'Tanh', 'Relu', 'Step', 'Sign'],
  ...['Sum', 'Mean', 'Max', 'Min', 'Prod', 'ArgMax', 'Softmax', 'LogSoftmax', 'Cumsum', 'BatchMatMul', 'Cast'],
  ...['Transpose', 'Slice', 'StridedSlice', 'Concat', 'Pack', 'Unpack', 'SplitV', 'Tile', 'PadV2', 'Reverse'],
  ...['GatherV2', 'OneHot', 'Range', 'Fill', 'ZerosLike', 'OnesLike', 'Select', 'UnsortedSegmentSum', 'ClipByValue'],
  ...['Equal', 'NotEqual', 'Greater', 'GreaterEqual', 'Less', 'LessEqual', 'LogicalAnd', 'LogicalOr', 'LogicalNot'],
  ...['Reshape', 'ExpandDims', 'Identity', 'BroadcastTo'],
];

const missing = addonMissing();
if (missing !== undefined) console.log(`tfjs-core's op tests are skipped: ${missing}`);

describe.skipIf(missing !== undefined)('native under the op tests of tfjs-core', () => {
  let result: ConformanceResult;

  beforeAll(async () => {
    result = await runConformance({ backend: 'native', leftOut });
  });

  it('passes every spec but those listed with a reason', () => {
    const unexpected = result.failed.filter(({ name }) => knownFailures[name] === undefined);
    expect(unexpected).toEqual([]);
    // tfjs-core 4.22.0 has this many; fewer means that the bundle lost some.
    expect(result.passed).toBeGreaterThanOrEqual(3845);
  });

  it('runs no kernel that a model uses on the host', () => {
    expect(neverOnTheHost.filter((kernel) => kernel in result.fallbacks)).toEqual([]);
  });
});
