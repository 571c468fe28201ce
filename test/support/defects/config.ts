/** config.json and generation_config.json. */
import { config, configText, file, linkOut, V, without } from '../broken-checkpoints.ts';
import { accepted, badConfig, type Defect, defect, outside, unsupported } from './defect.ts';

const llama3 = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 32,
};

export const configDefects: readonly Defect[] = [
  defect('no config.json', 'teacher_not_found', without('config.json')),
  badConfig('an empty config.json', file('config.json', '')),
  badConfig('a config that is a list', file('config.json', '[]')),
  badConfig(
    'a config in UTF-16',
    configText((text) => Buffer.from(text, 'utf16le')),
  ),
  badConfig(
    'a config with a byte order mark',
    configText((text) => `\uFEFF${text}`),
  ),
  badConfig(
    'a key twice',
    configText((text) => text.replace('{', '{"hidden_size":8,')),
  ),
  badConfig(
    'an Infinity',
    configText((text) => text.replace('10000', 'Infinity')),
  ),
  badConfig(
    'a number out of range',
    configText((text) => text.replace('10000', '1e999')),
  ),
  badConfig(
    'a comment',
    configText((text) => text.replace('{', '{ // tiny\n')),
  ),
  badConfig(
    'single quotes',
    configText((text) => text.replaceAll('"', "'")),
  ),
  badConfig(
    'a thousand nested lists',
    configText((text) => text.replace('{', `{"x":${'['.repeat(1000)}${']'.repeat(1000)},`)),
  ),
  badConfig('two megabytes', config({ padding: 'x'.repeat(2 << 20) })),
  accepted(
    'a key called __proto__',
    configText((text) => text.replace('{', '{"__proto__":{"hidden_size":1},')),
  ),
  accepted('unknown keys', config({ brand_new: { nested: [1, 2] } })),
  outside('a link to a config elsewhere', linkOut('config.json')),
  badConfig('no model_type', config({ model_type: undefined }), 'model_type'),
  badConfig('a model_type that is a number', config({ model_type: 3 }), 'model_type'),
  unsupported('the model_type "constructor"', config({ model_type: 'constructor' }), 'model_type'),
  unsupported('the model_type "__proto__"', config({ model_type: '__proto__' }), 'model_type'),
  unsupported('a mixture of experts', config({ model_type: 'mixtral' }), 'model_type'),
  unsupported('a classifier', config({ architectures: ['LlamaForSequenceClassification'] }), 'architectures'),
  badConfig('architectures that are a string', config({ architectures: 'LlamaForCausalLM' }), 'architectures'),
  accepted('no architectures', config({ architectures: undefined })),
  ...(
    [
      'vocab_size',
      'hidden_size',
      'intermediate_size',
      'num_hidden_layers',
      'num_attention_heads',
      'max_position_embeddings',
    ] as const
  ).flatMap((name) => [
    badConfig(`${name} missing`, config({ [name]: undefined }), name),
    badConfig(`${name} null`, config({ [name]: null }), name),
    badConfig(`${name} zero`, config({ [name]: 0 }), name),
    badConfig(`${name} negative`, config({ [name]: -8 }), name),
    badConfig(`${name} fractional`, config({ [name]: 8.5 }), name),
    badConfig(`${name} huge`, config({ [name]: 2 ** 60 }), name),
    badConfig(`${name} text`, config({ [name]: '8' }), name),
    badConfig(`${name} true`, config({ [name]: true }), name),
    badConfig(`${name} a list`, config({ [name]: [8] }), name),
  ]),
  badConfig(
    'heads that do not divide the hidden size',
    config({ num_attention_heads: 3, num_key_value_heads: 3 }),
    'num_attention_heads',
  ),
  badConfig('more key heads than heads', config({ num_key_value_heads: 8 }), 'num_key_value_heads'),
  badConfig('no key heads', config({ num_key_value_heads: 0 }), 'num_key_value_heads'),
  badConfig('an odd head_dim', config({ head_dim: 3 }), 'head_dim'),
  badConfig('a head_dim of 0', config({ head_dim: 0 }), 'head_dim'),
  defect('a head_dim the weights have not', 'teacher_tensor_shape', config({ head_dim: 4 })),
  accepted('a head_dim of null', config({ head_dim: null })),
  defect('three layers announced, two there', 'teacher_tensor_missing', config({ num_hidden_layers: 3 })),
  defect('one layer announced, two there', 'teacher_tensor_unexpected', config({ num_hidden_layers: 1 })),
  badConfig('an eps of 0', config({ rms_norm_eps: 0 }), 'rms_norm_eps'),
  badConfig('an eps of 1', config({ rms_norm_eps: 1 }), 'rms_norm_eps'),
  badConfig('an eps that is text', config({ rms_norm_eps: '1e-5' }), 'rms_norm_eps'),
  badConfig('a theta of 0', config({ rope_theta: 0 }), 'rope_theta'),
  badConfig('a negative theta', config({ rope_theta: -10000 }), 'rope_theta'),
  badConfig('a scaling that is text', config({ rope_scaling: 'llama3' }), 'rope_scaling'),
  unsupported('yarn scaling', config({ rope_scaling: { rope_type: 'yarn', factor: 4 } }), 'rope_scaling.rope_type'),
  unsupported('dynamic scaling', config({ rope_scaling: { type: 'dynamic', factor: 2 } }), 'rope_scaling.rope_type'),
  badConfig('linear scaling without factor', config({ rope_scaling: { type: 'linear' } }), 'rope_scaling.factor'),
  badConfig('a scaling factor of 0', config({ rope_scaling: { ...llama3, factor: 0 } }), 'rope_scaling.factor'),
  badConfig(
    'llama3 without its original length',
    config({ rope_scaling: { ...llama3, original_max_position_embeddings: null } }),
  ),
  badConfig('llama3 with equal frequency factors', config({ rope_scaling: { ...llama3, low_freq_factor: 4 } })),
  badConfig(
    'two different thetas',
    config({ rope_parameters: { rope_type: 'default', rope_theta: 500000 } }),
    'rope_theta',
  ),
  badConfig(
    'two different scalings',
    config({ rope_scaling: llama3, rope_parameters: { rope_type: 'default', rope_theta: 10000 } }),
  ),
  unsupported('partial rotary embeddings', config({ partial_rotary_factor: 0.5 }), 'partial_rotary_factor'),
  unsupported('GELU', config({ hidden_act: 'gelu' }), 'hidden_act'),
  badConfig('an activation that is null in a list', config({ hidden_act: [null] }), 'hidden_act'),
  unsupported(
    'quantised weights',
    config({ quantization_config: { quant_method: 'gptq', bits: 4 } }),
    'quantization_config',
  ),
  badConfig('tied embeddings as text', config({ tie_word_embeddings: 'true' }), 'tie_word_embeddings'),
  badConfig('tied embeddings as a number', config({ tie_word_embeddings: 1 }), 'tie_word_embeddings'),
  badConfig('an end token beyond the vocabulary', config({ eos_token_id: V }), 'eos_token_id'),
  badConfig('end tokens of text', config({ eos_token_id: [2, '3'] }), 'eos_token_id'),
  badConfig('a negative begin token', config({ bos_token_id: -1 }), 'bos_token_id'),
  badConfig('a fractional padding token', config({ pad_token_id: 0.5 }), 'pad_token_id'),
  accepted('a padding token of -1', config({ pad_token_id: -1 })),
  accepted('remote code, which is not run', config({ auto_map: { AutoModelForCausalLM: 'evil.Evil' } })),
  badConfig('a generation_config.json that is not JSON', file('generation_config.json', '{')),
  badConfig(
    'a generation_config.json with an id beyond the vocabulary',
    file('generation_config.json', '{"eos_token_id":[1,99]}'),
    'eos_token_id',
  ),
  unsupported(
    'Mistral with a window shorter than its context',
    config({ ...mistral(), sliding_window: 16 }),
    'sliding_window',
  ),
  accepted('Mistral with a window as long as its context', config({ ...mistral(), sliding_window: 64 })),
  accepted('Mistral without a window', config({ ...mistral(), sliding_window: null })),
  badConfig('Mistral with a window of text', config({ ...mistral(), sliding_window: '16' }), 'sliding_window'),
];

function mistral(): object {
  return { model_type: 'mistral', architectures: ['MistralForCausalLM'] };
}
