// Validates AsyncAPI documents with the official parser: node validate.mjs FILE…
import { readFileSync } from 'node:fs';
import { Parser } from '@asyncapi/parser';

// Others are hints, such as a newer version of AsyncAPI.
const SEVERITIES = ['error', 'warning'];
let failed = false;
for (const file of process.argv.slice(2)) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(file, 'utf8'), { source: file });
  const problems = diagnostics.filter(({ severity }) => severity < SEVERITIES.length);
  for (const { severity, message, path, code } of problems) {
    console.log(`${file}: ${SEVERITIES[severity]}: ${message} (${code}) at ${path.join('/')}`);
  }
  const valid = document && problems.length === 0;
  if (valid) console.log(`${file}: valid`);
  failed ||= !valid;
}
process.exit(failed ? 1 : 0);
