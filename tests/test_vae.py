"The page of the autoencoder on pictures in colour: rehearsals on drawn discs, in the files of CIFAR-10 and CelebA"
import json, math, pickle
import numpy as np, pytest
from PIL import Image
from medfolio.record import read_record
from medfolio.worker import execute

KINDS = 'airplane automobile bird cat deer dog frog horse ship truck'.split()


def discs(n, rng):
    "Coloured discs on coloured ramps, in bytes; what a disc is called is its hue"
    y, at = rng.integers(0, 10, n), np.arange(32)/32
    c, r = rng.uniform(.3, .7, (2, n, 1, 1)), rng.uniform(.1, .3, (n, 1, 1))
    inside = (at[:, None] - c[0])**2 + (at - c[1])**2 < r**2
    hue = np.cos(2*np.pi*(y[:, None]/10 + np.arange(3)/3))[:, :, None, None]/2 + .5
    ramp = rng.uniform(0, .7, (n, 3, 1, 1)) + .3*at[:, None]
    return np.round(255*np.where(inside[:, None], hue, ramp)).astype(np.uint8), y


def write_cifar(folder, n=40):
    "The files of CIFAR-10, n pictures each, marked as a twin"
    folder.mkdir(parents=True); rng = np.random.default_rng(0)
    (folder/'TWIN.json').write_text(json.dumps(dict(generator='tests/test_vae.py', seed=0)))
    (folder/'batches.meta').write_bytes(pickle.dumps({b'label_names': [k.encode() for k in KINDS]}, 4))
    for b in [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']:
        x, y = discs(n, rng)
        (folder/b).write_bytes(pickle.dumps({b'data': x.reshape(n, -1), b'labels': y.tolist()}, 4))


def write_celeba(folder, n=200, people=40):
    "The files of CelebA, n faces of some people, whom no two parts share; marked as a twin"
    (folder/'img_align_celeba').mkdir(parents=True)
    (folder/'TWIN.json').write_text(json.dumps(dict(generator='tests/test_vae.py', seed=0)))
    x, y = discs(n, np.random.default_rng(0))
    names, who = [f'{i + 1:06d}.jpg' for i in range(n)], np.arange(n) % people
    for name, o in zip(names, x):
        Image.fromarray(o.transpose(1, 2, 0)).resize((178, 218)).save(folder/'img_align_celeba'/name)
    lines = lambda v: ''.join(f'{name} {o}\n' for name, o in zip(names, v))
    (folder/'list_eval_partition.txt').write_text(lines(np.searchsorted([24, 32], who, 'right')))
    (folder/'identity_CelebA.txt').write_text(lines(who))
    (folder/'list_attr_celeba.txt').write_text(f'{n}\nSmiling\n' + lines(np.where(y < 5, 1, -1)))


@pytest.fixture
def rehearsed(repository, tmp_path, monkeypatch):
    "Run the page in rehearsal with these parameters; its record, and the folder of its files"
    monkeypatch.delenv('IN_TEST', raising=False); monkeypatch.delenv('MEDFOLIO_ROOT', raising=False)
    stage = tmp_path/'stage'; stage.mkdir()
    for k, v in dict(SMOKE=1, STAGE=stage, RUN='vae-colour', DATA=tmp_path).items():
        monkeypatch.setenv(f'MEDFOLIO_{k}', str(v))
    def run(**params):
        said = execute(repository/'nbs/vae.ipynb', tmp_path/'out.ipynb', params)
        assert not said, said['error']
        return read_record(stage), stage
    return run


def test_cifar10_is_read_the_same_way(rehearsed, tmp_path):
    "All flavours share the road; this one has a judge, and grows"
    write_cifar(tmp_path/'cifar10/cifar-10-batches-py')
    record, stage = rehearsed(data='cifar10', flavour='feature', grow=True, z=4)
    assert record['data']['kind'] == 'twin' and record['data']['name'] == '240 pictures of CIFAR-10'
    got = {m['name']: m for m in record['metrics']}
    assert {'nats', 'linear_nats', 'pca_nats', 'rate', 'psnr', 'ssim', 'fid'} < set(got) and got['nats']['n'] == 40
    for k in 'value', 'low', 'high', 'no_skill', 'baseline':     # three colours of 32 × 32 pixels
        assert math.isclose(got['bits'][k], got['nats'][k]/(3*32*32*math.log(2)), rel_tol=1e-5), k
    assert 0 < got['bits']['no_skill'] < 8.5                      # eight bits for a level that nothing is known of
    table = (stage/'nats.csv').read_text()
    assert len(table.splitlines()) == 5 and 'Burda' not in table  # four models, and no literature of digits
    for part in record['figures'] + record['tables'] + record['metrics']:
        assert 'digit' not in part.get('caption', part.get('what')), part


def test_celeba_is_read_the_same_way(rehearsed, tmp_path):
    "64 pixels a side, parts as the list has them, and intervals over people, of whom each has five faces"
    write_celeba(tmp_path/'celeba')
    record, stage = rehearsed(data='celeba', z=4)
    assert record['data']['kind'] == 'twin' and record['data']['name'] == '200 faces of CelebA'
    got = {m['name']: m for m in record['metrics']}
    assert got['nats']['n'] == 8
    for k in 'value', 'no_skill':
        assert math.isclose(got['bits'][k], got['nats'][k]/(3*64*64*math.log(2)), rel_tol=1e-5), k
    for part in record['figures'] + record['tables'] + record['metrics']:
        assert 'digit' not in part.get('caption', part.get('what')), part


def test_the_command_of_the_page(rehearsed):
    "Digits, a dear description, features and growth at once; without MNIST's files its real digits, or a twin"
    record, _ = rehearsed(data='mnist', beta=4., flavour='feature', grow=True)
    got = {m['name']: m for m in record['metrics']}
    assert record['params']['beta'] == 4 and got['nats']['unit'] == 'nats'
    assert math.isfinite(got['nats']['value']) and 'capacity_rate' not in got  # that section is the plain run's
