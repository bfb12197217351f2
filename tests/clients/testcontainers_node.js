// testcontainers for Node: a network, a port, an exec, files, an image from a Dockerfile.
'use strict';
const assert = require('assert');
const fs = require('fs');
const { GenericContainer, Network, Wait } = require('testcontainers');

const image = process.env.IMAGE;

async function main() {
  const network = await new Network().start();
  const web = await new GenericContainer(image)
    .withNetwork(network).withNetworkAliases('web').withExposedPorts(80)
    .withCommand(['sh', '-c', 'echo ready; exec httpd -f -h /etc'])
    .withWaitStrategy(Wait.forAll([Wait.forLogMessage('ready'), Wait.forListeningPorts()]))
    .start();
  const answer = await fetch(`http://${web.getHost()}:${web.getMappedPort(80)}/os-release`);
  assert((await answer.text()).startsWith('ID=busybox'));
  assert.equal((await web.exec(['echo', 'hi'])).output, 'hi\n');
  await web.copyContentToContainer([{ content: 'abc', target: '/tmp/f' }]);
  assert.equal((await web.exec(['cat', '/tmp/f'])).output, 'abc');
  fs.writeFileSync('Dockerfile', `FROM ${image}\nCOPY Dockerfile /d\nCMD ["sleep", "100"]\n`);
  const built = await GenericContainer.fromDockerfile(process.cwd()).build('testcontainers:1', { deleteOnExit: false });
  const other = await built.withNetwork(network).start();
  assert.equal((await other.exec(['head', '-n', '1', '/d'])).output, `FROM ${image}\n`);
  assert((await other.exec(['wget', '-q', '-O', '-', 'http://web/os-release'])).output.startsWith('ID='));
  await other.stop();
  await web.stop();
  await network.stop();
}

main().catch((error) => { console.error(error); process.exit(1); });
