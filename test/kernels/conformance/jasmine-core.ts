/**
 * Stands in for `jasmine-core/lib/jasmine-core/jasmine.js`, which tfjs-core's test helpers require by that path and of
 * which they use one field. The current jasmine-core no longer exports the path.
 */
export function core(): { DEFAULT_TIMEOUT_INTERVAL: number } {
  return { DEFAULT_TIMEOUT_INTERVAL: 0 };
}
