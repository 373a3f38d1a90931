"""Windows and batches on another device are those of the CPU; without CUDA the CPU plays the device's part"""
import numpy as np, pandas as pd, pytest, torch
from medfolio.core import MedfolioError
from medfolio.data.loaders import SliceLoader, loaders, slices
from medfolio.data.store import prepare
from medfolio.data.window import HEMORRHAGE, WINDOWS, _on_device, as_windows, window

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
both = pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=gpu)])
N, SIDE, BS = 52, 32, 8


def same(a, b, device):
    "Bit for bit where the CPU plays the part; on a GPU up to a last bit of what lies between 0 and 1"
    a, b = (np.asarray(o.cpu() if isinstance(o, torch.Tensor) else o) for o in (a, b))
    return a.shape == b.shape and a.dtype == b.dtype and np.abs(a - b).max() <= (0 if device == 'cpu' else 2**-24)


def windowed(hu, windows, device, factor=1, out=None):
    "`window` of a batch on `device`; on the CPU by the operators that a GPU would use"
    x = torch.from_numpy(hu).to(device)
    got = window(x, windows, out, factor) if device == 'cuda' else _on_device(x, as_windows(windows), factor, out)
    assert got.device.type == device and got.dtype == torch.float32
    return got


@pytest.fixture(scope='module')
def hu(): return np.random.default_rng(0).integers(-1100, 3100, (6, SIDE, SIDE)).astype(np.int16)


@both
@pytest.mark.parametrize('name', WINDOWS)
def test_every_value_through_each_preset(device, name):
    "All 65,536 values of an int16"
    every = np.arange(-2**15, 2**15, dtype=np.int16).reshape(1, 256, 256)
    assert same(windowed(every, name, device), window(every, name), device)


@both
@pytest.mark.parametrize('factor', [1, 2, 4])
@pytest.mark.parametrize('windows', [HEMORRHAGE, [(40, 80)], list(WINDOWS)], ids=['three', 'one', 'all'])
def test_stacked_windows_and_halves(device, windows, factor, hu):
    assert same(windowed(hu, windows, device, factor), window(hu, windows, factor=factor), device)


@both
@pytest.mark.parametrize('factor', [1, 2])
def test_windows_of_each_slice(device, factor, hu):
    "A slice, its own windows: multiples of 1/128 HU, where the page promises equal bits"
    rng = np.random.default_rng(1)
    own = np.stack([rng.integers(-99, 99, (6, 2)), rng.integers(1, 999, (6, 2))*2], -1).astype(float)
    got = windowed(hu, own, device, factor)
    assert same(got, window(hu, own, factor=factor), device)
    one = torch.cat([windowed(hu[[i]], own[i], device, factor) for i in range(6)])
    assert same(got, one, device) and not same(got, got.flip(0), device)


@both
def test_into_a_given_tensor(device, hu):
    out = torch.full((6, 3, SIDE, SIDE), torch.nan, device=device)
    assert windowed(hu, HEMORRHAGE, device, out=out).data_ptr() == out.data_ptr()
    assert same(out, window(hu, HEMORRHAGE), device)


@gpu
def test_what_is_refused_on_the_device(hu):
    for x, factor, why in [(torch.zeros(1, 8, 8), 1, 'int16'), (torch.from_numpy(hu), 3, 'do not divide')]:
        with pytest.raises(MedfolioError, match=why): window(x.cuda(), 'brain', factor=factor)


# Loaders

@pytest.fixture(scope='module')
def store(tmp_path_factory):
    "Noise whose mean names the slice"
    d, rng = tmp_path_factory.mktemp('gpu'), np.random.default_rng(0)
    for i in range(N): np.save(d/f'{i:03}.npy', (rng.integers(-20, 60, (SIDE, SIDE)) + i).astype(np.int16))
    index = pd.DataFrame(dict(item=[f'{i:03}' for i in range(N)], patient=[f'p{i % 4}' for i in range(N)], z=np.arange(N)*5.,
                              series=[f's{i % 4}' for i in range(N)], path=[f'{i:03}.npy' for i in range(N)], label=np.arange(N)))
    return prepare(index, lambda p: (np.load(p), {}), d/'store', d, per_shard=16, workers=1, progress=False)


class Elsewhere(SliceLoader):
    "A loader that treats the CPU as another device"
    _remote = property(lambda self: True, lambda self, v: None)


def wobble(w, n, rng): return w + rng.integers(0, 20, (n, 1, 2))


def pair(store, device, **kw):
    "A shuffled loader on the CPU, and the same for `device`"
    ds, kw = slices(store, np.arange(N), 'label'), dict(bs=BS, shuffle=True, seed=3) | kw
    there = (SliceLoader if device == 'cuda' else Elsewhere)(ds, device=torch.device(device), **kw)
    return SliceLoader(ds, device=torch.device('cpu'), **kw), there


WAYS = dict(one={}, three=dict(windows=HEMORRHAGE), halves=dict(factor=2, windows='lung'), neighbours=dict(neighbours=2),
            jitter=dict(windows=HEMORRHAGE, jitter=wobble), alone=dict(depth=0, threads=1), deep=dict(depth=5, threads=2))


@both
@pytest.mark.parametrize('kw', WAYS.values(), ids=WAYS)
def test_two_epochs_are_the_same(device, kw, store):
    "The same slices in the same order, windows and labels; all of it on the device; another order each epoch"
    here, there = pair(store, device, **kw)
    orders = []
    for _ in range(2):
        want, got = list(here), list(there)
        assert len(want) == len(got) == -(-N//BS)
        for (a, la), (b, lb) in zip(want, got):
            assert b.device.type == lb.device.type == device
            assert same(a, b, device) and torch.equal(la, lb.cpu())
        orders.append(torch.cat([y for _, y in got]).tolist())
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == list(range(N))


def lag(device, n=1):
    "Keep the GPU busy for some milliseconds, so that copies to it lie waiting"
    if device == 'cuda': torch.cuda._sleep(n*20_000_000)


@both
@pytest.mark.parametrize('keep', [False, True], ids=['dropped', 'kept'])
def test_no_buffer_is_overwritten_in_use(device, keep, store):
    "The device falls behind the loader: what arrives late is still what was sent, and what was kept stays as it was"
    here, there = pair(store, device, windows=HEMORRHAGE, depth=3)
    want, sums, held = list(here), [], []
    for _ in range(2):
        lag(device, 3)
        for x, _ in there:
            sums.append(x.double().sum((1, 2, 3)))  # in the stream, behind the copy
            if keep: held.append((x, x.clone()))
            lag(device)
            del x
    want += list(here)
    for a, s in zip(want, sums, strict=True):  # the sums tell one slice from another
        assert torch.allclose(a[0].double().sum((1, 2, 3)), s.cpu(), rtol=1e-6, atol=0)
    for (x, then), (a, _) in zip(held, want): assert torch.equal(x, then) and same(a, x, device)


@both
def test_the_ring(device, store):
    "Integers wait in a bounded ring, pinned where the device is a GPU, whose copies left their mark"
    _, there = pair(store, device, depth=3)
    for _ in range(2):
        for _ in there: pass
    slots = [s for s in there._ring.slots if s]
    assert 1 < len(slots) <= len(there._ring.slots) == 5
    for buffer, _, event in slots:
        assert buffer.dtype == torch.int16 and buffer.device.type == 'cpu'
        assert buffer.is_pinned() == (device == 'cuda') == (event is not None)
        if event: event.synchronize(); assert event.query()


@gpu
def test_loaders_find_the_gpu(store):
    "Without being told; the augmentation draws there"
    def shade(x, y, gen):
        assert x.device.type == y.device.type == gen.device.type == 'cuda'
        return x*torch.rand(len(x), 1, 1, 1, generator=gen, device=x.device), y
    a, b = (loaders(store, np.arange(40), np.arange(40, N), 'label', bs=BS, augment=shade, seed=1) for _ in range(2))
    for (x, _), (y, _) in zip(a.train, b.train): assert x.device.type == 'cuda' and torch.equal(x, y)
    assert next(iter(a.valid))[0].device.type == 'cuda'
