/**
 * A teacher directory small enough that whole jobs take seconds: three layers of random weights with a character
 * tokenizer, and a text to go with it. Nothing is learnt from it but mechanics.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { saveSafetensors } from '../../checkpoints/safetensors-writer.ts';
import { createRandom } from '../../kernels/random.ts';
import { characters, writeCharacterTokenizer } from './character-tokenizer.ts';

const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 3 + [...characters].length,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  hidden_act: 'silu',
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: 'float32',
};

/** Writes `dir`/teacher and `dir`/stories.txt. */
export function writeTinyTeacher(dir: string, seed = 1): { teacher: string; text: string } {
  const teacher = join(dir, 'teacher');
  mkdirSync(teacher, { recursive: true });
  writeFileSync(join(teacher, 'config.json'), JSON.stringify(config));
  writeCharacterTokenizer(teacher);
  const random = createRandom(seed);
  const tensor = (name: string, shape: number[], scale: number, mean = 0) => {
    const size = shape.reduce((product, dimension) => product * dimension, 1);
    const data = Float32Array.from({ length: size }, () => mean + scale * random.normal());
    return { name, dtype: 'F32' as const, shape, data };
  };
  const D = config.hidden_size;
  const kv = (D * config.num_key_value_heads) / config.num_attention_heads;
  const layers = Array.from({ length: config.num_hidden_layers }, (_, layer) => {
    const matrix = (name: string, rows: number, columns: number) =>
      tensor(`model.layers.${layer}.${name}.weight`, [rows, columns], columns ** -0.5);
    return [
      tensor(`model.layers.${layer}.input_layernorm.weight`, [D], 0.1, 1),
      tensor(`model.layers.${layer}.post_attention_layernorm.weight`, [D], 0.1, 1),
      matrix('self_attn.q_proj', D, D),
      matrix('self_attn.k_proj', kv, D),
      matrix('self_attn.v_proj', kv, D),
      matrix('self_attn.o_proj', D, D),
      matrix('mlp.gate_proj', config.intermediate_size, D),
      matrix('mlp.up_proj', config.intermediate_size, D),
      matrix('mlp.down_proj', D, config.intermediate_size),
    ];
  });
  saveSafetensors(join(teacher, 'model.safetensors'), [
    tensor('model.embed_tokens.weight', [config.vocab_size, D], 0.5),
    tensor('model.norm.weight', [D], 0.1, 1),
    ...layers.flat(),
  ]);
  const text = join(dir, 'stories.txt');
  writeFileSync(text, randomStories(random.integer(1 << 30)));
  return { teacher, text };
}

function randomStories(seed: number): string {
  const random = createRandom(seed);
  const letters = 'abcdefghijklmnopqrstuvwxyz';
  const word = () => Array.from({ length: 2 + random.integer(6) }, () => letters[random.integer(26)]).join('');
  const story = () => `${Array.from({ length: 30 + random.integer(60) }, word).join(' ')}.\n`;
  return Array.from({ length: 60 }, story).join('<|endoftext|>\n');
}
