/**
 * Who may talk to the server. Bearer tokens, read once from a file that only its owner can read or from MOLT_TOKENS, and
 * compared in constant time. A server without tokens listens to this machine only, and then a browser is the danger: a
 * page from anywhere can send requests to localhost, so requests with a foreign Host or Origin are refused.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { moltError } from '../errors.ts';

/** SHA-256 of each token: equal lengths to compare, and nothing in memory that could be printed by mistake. */
export type TokenDigests = readonly Buffer[];

/** 16 characters of base64 are 96 random bits. */
const shortestToken = 16;

/**
 * Reads the tokens of a server, one a line in `file`, else separated by commas in MOLT_TOKENS, which is removed from the
 * environment so that no stage process inherits it. Throws `usage` for a file that others can read, a token shorter
 * than 16 characters, and one that cannot stand in a header.
 */
export function readTokens(file: string | undefined): TokenDigests {
  const fromEnvironment = process.env['MOLT_TOKENS'] ?? '';
  delete process.env['MOLT_TOKENS'];
  const source = file ?? 'MOLT_TOKENS';
  const words = file === undefined ? fromEnvironment.split(',') : readPrivateFile(file).split('\n');
  const tokens = words.map((word) => word.trim()).filter((word) => word !== '' && !word.startsWith('#'));
  if (file !== undefined && tokens.length === 0) {
    throw moltError('usage', { file, message: 'holds no token', hint: 'Write one a line.' });
  }
  tokens.forEach((token, index) => {
    if (token.length >= shortestToken && /^[\w.~+/-]+=*$/.test(token)) return;
    throw moltError('usage', {
      file: source,
      message: `token ${index + 1} is not at least ${shortestToken} letters, digits or any of ._~+/-`,
      hint: 'Make one with: openssl rand -hex 24',
    });
  });
  return tokens.map(digest);
}

function readPrivateFile(file: string): string {
  let descriptor: number;
  try {
    descriptor = openSync(file, 'r');
  } catch (cause) {
    throw moltError('usage', { file, message: `cannot be read: ${(cause as Error).message}`, cause });
  }
  try {
    const { mode } = fstatSync(descriptor);
    if ((mode & 0o077) !== 0) {
      throw moltError('usage', {
        file,
        message: `can be read or written by others (mode ${(mode & 0o777).toString(8)})`,
        hint: `chmod 600 ${file}`,
      });
    }
    return readFileSync(descriptor, 'utf8');
  } finally {
    closeSync(descriptor);
  }
}

/** Throws `unauthorized` unless the Authorization header holds one of the tokens. Without tokens everyone may enter. */
export function requireToken(tokens: TokenDigests, authorization: string | undefined): void {
  if (tokens.length === 0) return;
  const [, given] = /^Bearer +(\S+)$/i.exec(authorization ?? '') ?? [];
  const candidate = digest(given ?? '');
  // Every token is compared, so the time says nothing about which one came close.
  const matches = tokens.filter((token) => timingSafeEqual(token, candidate)).length;
  if (given !== undefined && matches > 0) return;
  throw moltError('unauthorized', {
    message: given === undefined ? 'this server needs a token' : 'this token is not known',
    hint: 'Send the header `Authorization: Bearer TOKEN`.',
  });
}

/**
 * Throws `forbidden` for what a foreign web page could send: a Host that is not this machine when there is no token to
 * ask for (a name that was pointed here), or an Origin that is not the server's own.
 */
export function refuseForeignPages(
  tokens: TokenDigests,
  { host, origin }: { readonly host: string | undefined; readonly origin: string | undefined },
): void {
  if (tokens.length === 0 && !isLoopback(hostnameOf(host ?? ''))) {
    throw moltError('forbidden', {
      message: `"${host ?? ''}" is not a name of this machine's own`,
      hint: 'Ask for localhost, or start the server with a token.',
    });
  }
  if (origin === undefined) return;
  if (URL.canParse(origin) && new URL(origin).host === host) return;
  throw moltError('forbidden', {
    message: `pages of "${origin}" may not use this server`,
    hint: 'There is no CORS here: use the API from a program, or through a proxy on its own origin.',
  });
}

/** Whether a host name or address can only mean this machine. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host);
}

/** The Host header without its port. */
function hostnameOf(host: string): string {
  return host.toLowerCase().replace(/:\d+$/, '');
}

function digest(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
