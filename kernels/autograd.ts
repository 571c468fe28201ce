/**
 * Reverse-mode differentiation over tfjs's own tape. tfjs records kernels; this file replaces its backward pass, which
 * keeps every activation and every intermediate gradient until the end, saves tensors for frozen branches too, and
 * cannot be called from inside a gradient. Here
 *  - a kernel that no requested input reaches is forgotten as soon as it has run, and of the others only what the
 *    backward pass will read is kept (`gradient-rules.ts`);
 *  - activations and gradients are released node by node while walking back;
 *  - calls may be nested, which is what `checkpoint` needs.
 *
 * First-order only: the backward pass itself is not recorded. It depends on tfjs internals (the engine's tape and its
 * depth counters), so the version of tfjs-core is pinned and test/kernels/autograd.test.ts guards it.
 */
import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs-core';
import { type GradientThunks, hasGradient, readsSaved, shared } from './gradient-rules.ts';
import { registerGradients } from './gradients.ts';

export interface ValueAndGradients<T extends tf.Tensor = tf.Tensor> {
  readonly value: T;
  /**
   * One gradient for every requested input, in the order and shape of the inputs; zeros where f does not depend on it.
   */
  readonly gradients: tf.Tensor[];
}

/**
 * The value of f and its gradients with respect to variables. A value that is not a scalar is differentiated as the sum
 * of its elements. Everything else that f creates is disposed; use `tf.keep` inside f for further results. The caller,
 * or the enclosing `tf.tidy`, owns value and gradients.
 */
export function valueAndGradients<T extends tf.Tensor>(
  f: () => T,
  parameters: readonly tf.Variable[],
): ValueAndGradients<T> {
  return vjp(f, parameters);
}

/**
 * Vector-Jacobian product: the value y of f and, for every input, dyᵀ ∂y/∂input.
 * @param inputs leaf tensors or variables that f reads by closure.
 * @param dy gradient of the value, of its shape; ones when absent.
 */
export function vjp<T extends tf.Tensor>(
  f: () => T,
  inputs: readonly tf.Tensor[],
  dy?: tf.Tensor,
): ValueAndGradients<T> {
  registerGradients();
  const recording = record(f, inputs);
  try {
    const { value } = recording;
    if (dy !== undefined) assert.deepEqual(dy.shape, value.shape, 'dy must have the shape of the value of f');
    const gradients = withoutTape(() => tf.tidy(() => backpropagate(recording, inputs, dy)));
    return { value, gradients };
  } finally {
    for (const node of recording.tape) release(node);
  }
}

/**
 * f(x), with f's activations forgotten and recomputed in the backward pass: memory for time.
 * @param f must give the same value every time and depend on nothing trained but x and `parameters`.
 */
export function checkpoint(
  f: (x: tf.Tensor) => tf.Tensor,
  x: tf.Tensor,
  parameters: readonly tf.Variable[],
): tf.Tensor {
  if (!isRecording()) return f(x);
  const value = withoutTape(() => tf.tidy(() => copy(f(x))));
  const input = tf.keep(withoutTape(() => copy(x)));
  const inputs: Record<string, tf.Tensor> = { x };
  parameters.forEach((parameter, index) => {
    inputs[`parameter${index}`] = parameter;
  });
  const gradient = ([dy]: readonly tf.Tensor[], needed = Object.keys(inputs)): GradientThunks => {
    const sources = needed.map((name) => (name === 'x' ? input : inputs[name]!));
    const gradientOf = shared(() => {
      const recomputed = vjp(() => f(input), sources, dy);
      recomputed.value.dispose();
      return recomputed.gradients;
    });
    return Object.fromEntries(needed.map((name, index) => [name, () => gradientOf(index)]));
  };
  const state = engineState();
  const id = state.nextTapeNodeId++;
  state.activeTape!.push({ id, kernelName: 'Checkpoint', inputs, outputs: [value], saved: [input], gradient });
  return value;
}

/** Whether a gradient is being recorded: only then is it worth writing what nothing but a backward pass reads. */
export function isRecording(): boolean {
  const { gradientDepth, kernelDepth } = engineState();
  return gradientDepth > 0 && kernelDepth === 0;
}

// ---------------------------------------------------------------- tfjs internals

interface TapeNode {
  readonly id: number;
  readonly kernelName: string;
  readonly inputs: Readonly<Record<string, tf.Tensor>>;
  readonly outputs: readonly tf.Tensor[];
  readonly saved: readonly tf.Tensor[];
  /** `needed`: the inputs whose gradient is wanted. Only nodes of this file read it; tfjs's own ignore it. */
  readonly gradient?: (dys: readonly tf.Tensor[], needed?: string[]) => GradientThunks;
}

interface EngineState {
  activeTape: TapeNode[] | null;
  gradientDepth: number;
  kernelDepth: number;
  nextTapeNodeId: number;
  readonly activeScope: { readonly id: number } | null;
}

function engineState(): EngineState {
  return tf.engine().state as unknown as EngineState;
}

/** Runs `body` with another tape (null: none) and puts the engine back as it was, whatever happens. */
function withTape<T>(tape: TapeNode[] | null, body: () => T): T {
  const state = engineState();
  const { activeTape, gradientDepth, kernelDepth } = state;
  state.activeTape = tape;
  state.gradientDepth = tape === null ? 0 : 1;
  state.kernelDepth = 0;
  try {
    return body();
  } finally {
    state.activeTape = activeTape;
    state.gradientDepth = gradientDepth;
    state.kernelDepth = kernelDepth;
  }
}

function withoutTape<T>(body: () => T): T {
  return withTape(null, body);
}

/** A second handle to the same buffer, which may be disposed without touching the first. */
function copy<T extends tf.Tensor>(x: T): T {
  return tf.engine().runKernel(tf.Identity, { x }) as T;
}

function release(node: TapeNode): void {
  for (const tensor of node.saved) tensor.dispose();
}

// ---------------------------------------------------------------- forward

interface Recording<T extends tf.Tensor> {
  readonly value: T;
  readonly tape: TapeNode[];
  /** Ids of the tensors that depend on a requested input. */
  readonly reached: ReadonlySet<number>;
}

function record<T extends tf.Tensor>(f: () => T, inputs: readonly tf.Tensor[]): Recording<T> {
  const state = engineState();
  const reached = new Set(inputs.map((input) => input.id));
  const tape: TapeNode[] = [];
  // tfjs appends with push; pruning here frees the memory of frozen branches while f still runs.
  tape.push = (node: TapeNode) => {
    // Inside a kernel tfjs notes the copies it makes of saved tensors. They lead nowhere.
    if (state.kernelDepth > 0) return tape.length;
    const needsGradient = (name: string) => {
      const input = node.inputs[name];
      return input !== undefined && reached.has(input.id);
    };
    if (!Object.keys(node.inputs).some(needsGradient)) {
      release(node);
      return tape.length;
    }
    for (const output of node.outputs) reached.add(output.id);
    node.saved.forEach((tensor, index) => {
      if (!readsSaved(node.kernelName, index, needsGradient)) tensor.dispose();
    });
    tape[tape.length] = node;
    return tape.length;
  };
  try {
    const value = withTape(tape, () => tf.tidy(f));
    assert(value instanceof tf.Tensor, 'f must return a tensor');
    return { value, tape, reached };
  } catch (error) {
    for (const node of tape) release(node);
    throw error;
  }
}

// ---------------------------------------------------------------- backward

/** Walks the tape back, consuming it. Runs inside a tidy of its own: what it does not return is disposed. */
function backpropagate(
  { value, tape, reached }: Recording<tf.Tensor>,
  inputs: readonly tf.Tensor[],
  dy: tf.Tensor | undefined,
): tf.Tensor[] {
  // Gradients by tensor id. Each is owned by this map alone.
  const gradients = new Map<number, tf.Tensor>();
  gradients.set(value.id, dy === undefined ? tf.fill(value.shape, 1) : copy(dy));

  for (let node = tape.pop(); node !== undefined; node = tape.pop()) {
    if (node.outputs.some((output) => gradients.has(output.id))) {
      for (const { input, gradient } of inputGradients(node, gradients, reached)) {
        const sum = gradients.get(input.id);
        if (sum === undefined) {
          gradients.set(input.id, gradient);
        } else {
          gradients.set(input.id, tf.add(sum, gradient));
          sum.dispose();
          gradient.dispose();
        }
      }
      for (const output of node.outputs) {
        gradients.get(output.id)?.dispose();
        gradients.delete(output.id);
      }
    }
    release(node);
  }

  const handedOut = new Set<tf.Tensor>();
  return inputs.map((input) => {
    const gradient = gradients.get(input.id);
    if (gradient === undefined) return tf.fill(input.shape, 0);
    if (handedOut.has(gradient)) return copy(gradient);
    handedOut.add(gradient);
    return gradient;
  });
}

interface InputGradient {
  readonly input: tf.Tensor;
  readonly gradient: tf.Tensor;
}

/**
 * The gradients of one node's inputs, all computed in one tidy so that a fused backward kernel may hand out several.
 */
function inputGradients(
  node: TapeNode,
  gradients: ReadonlyMap<number, tf.Tensor>,
  reached: ReadonlySet<number>,
): InputGradient[] {
  const { kernelName } = node;
  const backward = node.gradient;
  if (backward === undefined) throw new Error(`kernel ${kernelName} has no registered gradient`);
  const results: InputGradient[] = [];
  tf.tidy(() => {
    const scope = engineState().activeScope!.id;
    const dys = node.outputs.map(
      ({ id, shape }, index) => gradients.get(id) ?? tf.fill(hasGradient(kernelName, index) ? shape : [], 0),
    );
    const needed = Object.keys(node.inputs).filter((name) => reached.has(node.inputs[name]!.id));
    const thunks = backward(dys, needed);
    const taken = new Set<tf.Tensor>();
    for (const name of needed) {
      const input = node.inputs[name]!;
      const thunk = thunks[name];
      if (thunk === undefined) throw new Error(`kernel ${kernelName} has no gradient for its input ${name}`);
      let gradient = thunk();
      assert.equal(gradient.dtype, 'float32', `${kernelName}: the gradient of ${name} must be float32`);
      assert.deepEqual(gradient.shape, input.shape, `${kernelName}: shape of the gradient of ${name}`);
      // A rule may pass dy or a saved tensor through, or give one tensor to two inputs: the map needs its own handle.
      const owned = gradient.scopeId === scope && !gradient.kept && !dys.includes(gradient) && !taken.has(gradient);
      if (!owned) gradient = copy(gradient);
      taken.add(gradient);
      results.push({ input, gradient });
    }
    return results.map((result) => result.gradient);
  });
  return results;
}
