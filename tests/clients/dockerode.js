// dockerode: what it calls, and what it makes of the answers.
'use strict';
const assert = require('assert');
const fs = require('fs');
const { PassThrough } = require('stream');
const Docker = require('dockerode');

const docker = new Docker({ socketPath: process.env.DOCKER_HOST.replace('unix://', '') });
const Image = process.env.IMAGE;
const HostConfig = { NetworkMode: 'none' };
const ended = (stream) => new Promise((resolve) => stream.on('end', resolve));

async function main() {
  assert.equal((await docker.ping()).toString(), 'OK');
  const out = new PassThrough();
  let text = '';
  out.on('data', (piece) => { text += piece; });
  const [result, once] = await docker.run(Image, ['sh', '-c', 'echo hi; exit 3'], [out, out], { Tty: false, HostConfig });
  assert.equal(result.StatusCode, 3);
  assert.equal(text, 'hi\n');
  await once.remove();

  const line = ['sh', '-c', 'read a; echo got $a'];
  const reads = await docker.createContainer({ Image, Cmd: line, OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true, HostConfig });
  const attached = await reads.attach({ stream: true, stdin: true, stdout: true, stderr: true, hijack: true });
  let got = '';
  docker.modem.demuxStream(attached, { write: (piece) => { got += piece; } }, process.stderr);
  await reads.start();
  attached.write('one\n');
  await ended(attached);
  assert.equal(got, 'got one\n');
  assert.equal((await reads.wait()).StatusCode, 0);
  await reads.remove();

  const box = await docker.createContainer({ Image, Cmd: ['sleep', '1000'], name: 'box', Labels: { a: 'b' }, HostConfig });
  await box.start();
  assert.equal((await docker.listContainers({ filters: { label: ['a=b'] } })).length, 1);
  for (let turn = 0; turn < 5; turn++) {
    const exec = await box.exec({ Cmd: ['cat'], AttachStdin: true, AttachStdout: true });
    const stream = await exec.start({ hijack: true, stdin: true });
    let echoed = '';
    docker.modem.demuxStream(stream, { write: (piece) => { echoed += piece; } }, process.stderr);
    stream.end('x\n');
    await ended(stream);
    assert.equal(echoed, 'x\n');
    assert.equal((await exec.inspect()).ExitCode, 0);
  }
  // Without an upgrade: the answer is a stream, and what is written goes on behind the request.
  const told = async (stream, line) => {
    let said = '';
    docker.modem.demuxStream(stream, { write: (piece) => { said += piece; } }, process.stderr);
    stream.write(line);
    await ended(stream);
    return said;
  };
  for (const more of [{ hijack: false }, {}]) {
    const plain = await box.exec({ Cmd: line, AttachStdin: true, AttachStdout: true });
    assert.equal(await told(await plain.start({ stdin: true, ...more }), 'plainly\n'), 'got plainly\n');
    assert.equal((await plain.inspect()).ExitCode, 0);
  }
  const second = await docker.createContainer({ Image, Cmd: line, OpenStdin: true, StdinOnce: true, HostConfig });
  const joined = await second.attach({ stream: true, stdin: true, stdout: true, hijack: false });
  await second.start();
  assert.equal(await told(joined, 'attached\n'), 'got attached\n');
  await second.remove();
  assert.equal((await box.stats({ stream: false })).name, '/box');
  await box.remove({ force: true });
  await assert.rejects(box.inspect(), { statusCode: 404 });

  fs.writeFileSync('Dockerfile', `FROM ${Image}\nARG A\nRUN echo $A > /a\nCMD ["cat", "/a"]\n`);
  const built = await docker.buildImage({ context: '.', src: ['Dockerfile'] }, { t: 'node:1', buildargs: { A: 'z' }, networkmode: 'none' });
  const lines = await new Promise((resolve, reject) => {
    docker.modem.followProgress(built, (error, all) => (error ? reject(error) : resolve(all)));
  });
  assert(lines.some((one) => /^Successfully built [0-9a-f]{12}\n$/.test(one.stream || '')), JSON.stringify(lines));
  await docker.getImage('node:1').remove();
  const events = await docker.getEvents({ since: 1, until: Math.floor(Date.now() / 1000) + 1 });
  let heard = '';
  events.on('data', (piece) => { heard += piece; });
  await ended(events);
  assert(heard.includes('"destroy"'), heard);
}

main().catch((error) => { console.error(error); process.exit(1); });
