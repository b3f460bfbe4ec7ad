// Fetches at a fixed rate of messages published beforehand.  SERVER RATE DURATION SUBJECTS BODY_BYTES MAX_P99_MS
import grpc from 'k6/net/grpc';
import { check } from 'k6';
import exec from 'k6/execution';
import { body, client, connect, openLoop, server, subjectOf } from './common.js';

export const options = openLoop('grpc_req_duration{call:fetch}');

// The ids differ from run to run, so the published ones are handed to the virtual users.
export function setup() {
  client.connect(server, { plaintext: true });
  const published = [];
  for (let i = 0; i < 1000; i++) {
    const subject = subjectOf(i);
    const answer = client.invoke('broker.Broker/Publish', { subject, body, expirationSeconds: 3600 });
    if (answer.status !== grpc.StatusOK) {
      throw new Error(`publish before the run: ${JSON.stringify(answer.error)}`);
    }
    published.push({ subject, id: answer.message.id });
  }
  client.close();
  return published;
}

export default function (published) {
  connect();
  const request = published[exec.scenario.iterationInTest % published.length];
  const answer = client.invoke('broker.Broker/Fetch', request, { tags: { call: 'fetch' } });
  check(answer, {
    'is OK': (r) => r.status === grpc.StatusOK,
    'is the body': (r) => r.message && r.message.body === body,
  });
}
