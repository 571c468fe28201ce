/**
 * A program for fused-instruction-sets.test.ts: the results of every fused and every stored case as one file of floats, in the order of
 * the cases. Prints the instruction set it used.
 */
import { writeFileSync } from 'node:fs';
import { fusedCases } from '../support/fused-cases.ts';
import { everythingOf } from '../support/fused-runs.ts';
import { startNative } from '../support/native.ts';
import { storedCases } from '../support/stored-cases.ts';

const [file] = process.argv.slice(2);
if (file === undefined) throw new Error('usage: fused-probe.ts FILE');

const { addon } = await startNative();
const arrays: Float32Array[] = [];
for (const op of [...fusedCases(), ...storedCases()]) arrays.push(...(await everythingOf(op)));
writeFileSync(file, Buffer.concat(arrays.map(({ buffer }) => Buffer.from(buffer))));
process.stdout.write(addon.isa);
