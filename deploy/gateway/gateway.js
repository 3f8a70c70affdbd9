// njs, the language of nginx' own js module: whose key came with a request, and what a refusal says.
import crypto from 'crypto';
import fs from 'fs';

// The key as programs send it (X-API-Key, or Authorization: Bearer) or as browsers do (the password of Basic).
function given(r) {
    const header = r.headersIn['X-API-Key'];
    if (header) {
        return header;
    }
    const words = (r.headersIn['Authorization'] || '').split(' ');
    if (words.length !== 2) {
        return '';
    }
    if (words[0].toLowerCase() === 'bearer') {
        return words[1];
    }
    if (words[0].toLowerCase() === 'basic') {
        const pair = Buffer.from(words[1], 'base64').toString();
        return pair.slice(pair.indexOf(':') + 1);
    }
    return '';
}

// The name of the key, '' without a valid one. The file is read for every request: a few lines from the page cache, so
// that a key is valid, or not any more, from the moment at which the file says so. A fast hash is enough, as keys are 256
// random bits and not words (gateway_keys.py makes them).
function client(r) {
    const key = given(r);
    if (!key) {
        return '';
    }
    const digest = crypto.createHash('sha256').update(key).digest('hex');
    let lines;
    try {
        lines = fs.readFileSync(r.variables.keys_file, 'utf8').split('\n');
    } catch (error) {
        r.error('no key is valid, since the file of keys cannot be read: ' + error.message);
        return '';
    }
    for (let i = 0; i < lines.length; i++) {
        const words = lines[i].trim().split(/\s+/);
        if (words.length === 2 && words[0] === digest && /^[A-Za-z0-9._-]+$/.test(words[1])) {
            return words[1];
        }
    }
    return '';
}

// status -> name for programs, what is wrong, what to do
const ANSWERS = {
    400: ['malformed', 'The request cannot be read.', 'Send HTTP/1.1; where the gateway has TLS, to https://.'],
    401: ['key', 'The key is missing or not valid.', 'Send it as "X-API-Key: KEY" or "Authorization: Bearer KEY".'],
    403: ['forbidden', 'This is not let through.', 'Ask by the documented method, from a program or a page of this host.'],
    404: ['not-found', 'There is no such path.', 'Send paths as documented: nothing encoded, nothing doubled.'],
    413: ['too-large', 'The request is too large.', 'Send a smaller picture.'],
    429: ['too-many', 'These are too many requests.', 'Send them again after the seconds of "Retry-After".'],
    502: ['unreachable', 'What is behind the gateway does not answer.', 'It may be starting: try again in a minute.'],
    504: ['too-slow', 'What is behind the gateway did not answer in time.', 'Try again in a minute.'],
};

// An answer as those of the service (RFC 9457).
function answer(r, status) {
    const words = ANSWERS[status];
    const limits = status === 413 || status === 429 ? ' Let through: ' + r.variables.limits + '.' : '';
    const headers = { 401: ['WWW-Authenticate', 'Basic realm="any name, the key as password", charset="UTF-8"'],
                      429: ['Retry-After', '10'] };
    if (status in headers) {
        r.headersOut[headers[status][0]] = headers[status][1];
    }
    r.headersOut['Content-Type'] = 'application/problem+json';
    const problem = { type: 'urn:trellis2:problem:gateway-' + words[0], title: words[1], status: status,
                      detail: words[2] + limits };
    r.return(status, JSON.stringify(problem) + '\n');
}

function problem(r) {
    const status = Number(r.variables.status);
    answer(r, status in ANSWERS ? status : 400);
}

// What nginx' parser refuses: paths that lead above the root or hold a zero byte are not there, like other tricks.
function malformed(r) {
    answer(r, /^[A-Z]+ \S+ HTTP\/1\.[01]$/.test(r.variables.request) && !r.variables.request_uri ? 404 : 400);
}

export default { client, problem, malformed };
