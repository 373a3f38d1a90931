"Writers of twins that are killed: a twin is there whole or not at all, and nothing is left of what was begun"
import hashlib, json, os, signal, subprocess, sys, time
import psutil
import pytest

WRITERS = dict(
    deeplesion=('medfolio.twins.deeplesion', 'deeplesion_twin', dict(patients=60, size=128, slices=4)),
    rsna=('medfolio.twins.rsna', 'rsna_twin', dict(patients=8, size=64)),
    cq500=('medfolio.twins.cq500', 'cq500_twin', dict(scans=6, size=64, thin=10.)))


def code_of(name, root, **more):
    module, writer, given = WRITERS[name]
    return f'if __name__ == "__main__":\n import {module} as m; m.{writer}({str(root)!r}, **{given | more!r})'


def start(*args, **more): return subprocess.Popen([sys.executable, '-c', code_of(*args, **more)])


def files(root): return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob('*') if p.is_file()}


def pictures(folder): return [f for _, _, files in os.walk(folder) for f in files if f.endswith(('.png', '.dcm'))]  # bears a folder that vanishes


def killed(name, folder, after, **more):
    "A writer, killed when it has written `after` pictures; its process id"
    p = start(name, folder/'twin', **more); end = time.time() + 120
    while len(pictures(folder)) < after:
        assert p.poll() is None and time.time() < end, 'it was not killed in the middle'
        time.sleep(.005)
    workers = psutil.Process(p.pid).children(recursive=True)
    os.kill(p.pid, signal.SIGKILL); p.wait()
    return p.pid, workers


@pytest.mark.parametrize('name', WRITERS)
def test_a_killed_writer_leaves_no_twin(name, tmp_path):
    from medfolio.data.catalogue import kind_of
    for after in (1, 12):
        pid, _ = killed(name, tmp_path, after)
        assert [p.name for p in tmp_path.iterdir()] == [f'.twin.{pid}.part']  # of the last one only
        assert kind_of(tmp_path/'twin') != 'twin'
    (tmp_path/'.twin.1.part').mkdir(); (tmp_path/'.other.999999999.part').mkdir()  # of the living, and of another twin
    assert start(name, tmp_path/'twin').wait(120) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ['.other.999999999.part', '.twin.1.part', 'twin']
    assert start(name, tmp_path/'quiet').wait(120) == 0
    assert files(tmp_path/'twin') == files(tmp_path/'quiet') and pictures(tmp_path/'twin')


@pytest.mark.parametrize('name', ['deeplesion', 'rsna'])
def test_workers_leave_with_the_process_that_was_killed(name, tmp_path):
    _, workers = killed(name, tmp_path, 4, workers=2)
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_half_a_twin_is_no_twin(tmp_path):
    from medfolio.core import MedfolioError
    from medfolio.twins.deeplesion import deeplesion_twin
    given = dict(patients=1, size=64, slices=1, neighbours=0)
    root = deeplesion_twin(tmp_path/'twin', **given)
    (root/'DL_info.csv').unlink()
    assert json.loads((root/'TWIN.json').read_text())['patients'] == 1
    with pytest.raises(MedfolioError, match='half a twin'): deeplesion_twin(root, **given)
