"A damaged archive is refused and leaves nothing, or what it held arrives: cuts and turned bits in every family"
import bz2, gzip, io, lzma, random, shutil, tarfile, zipfile
from pathlib import Path
import pytest
from medfolio.core import MedfolioError
from medfolio.data.archive import extract

NAMES = ['foo', 'd/b.bin', 'd/c.bin', 'e/info', 'empty', 'é/Ω']  # one turned bit makes a folder's name of `foo`
FILES = {n: random.Random(i).randbytes(113*(i % 5)) for i, n in enumerate(NAMES)} | {'empty': b''}
FAMILIES = dict(tar=bytes, tgz=gzip.compress, tbz=bz2.compress, txz=lzma.compress,
                pieces=lambda b: gzip.compress(b[:2000]) + gzip.compress(b[2000:]), blocks=lambda b: bz2.compress(b[:2000]) + bz2.compress(b[2000:]))


def a_tar(items=FILES, format=tarfile.GNU_FORMAT):
    with tarfile.open(fileobj=(f := io.BytesIO()), mode='w', format=format) as t:
        for n, b in items.items():
            m = tarfile.TarInfo(n); m.size = len(b); t.addfile(m, io.BytesIO(b))
    return f.getvalue()


def a_zip(items=FILES, way=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(f := io.BytesIO(), 'w', way) as z:
        z.writestr('d/', b'')
        for n, b in items.items(): z.writestr(n, b)
    return f.getvalue()


def held(dest): return {p.relative_to(dest).as_posix(): p.read_bytes() for p in dest.rglob('*') if p.is_file()}


def arrives(path, data, want=FILES):
    "Whether all arrived; it did, or nothing did"
    dest = path.with_name('dest')
    path.write_bytes(data)
    try: extract(path, dest)
    except MedfolioError: assert not any(dest.iterdir()); return False
    else: assert held(dest) == want; return True
    finally: shutil.rmtree(dest)


def turned(b, at, bit): return b[:at] + bytes([b[at] ^ 1 << bit]) + b[at + 1:]


def contents(b):
    "Bytes of a plain tar without a checksum of their own: what the files hold"
    with tarfile.open(fileobj=io.BytesIO(b)) as t: return {i for m in t for i in range(m.offset_data, m.offset_data + m.size)}


@pytest.mark.parametrize('family', FAMILIES)
def test_a_tar_that_travelled(tmp_path, family):
    plain, p = a_tar(), tmp_path/'a'
    b = FAMILIES[family](plain)
    assert arrives(p, b)
    end = len(b) if family != 'tar' else len(b.rstrip(b'\0'))  # zeros fill the end of a plain one
    assert [i for i in range(0, len(b), 97) if arrives(p, b[:i]) and i < end] == []
    skip = contents(plain) if family == 'tar' else set()
    for i in range(0, len(b), 5 if family == 'tar' else 1):
        if i not in skip: arrives(p, turned(b, i, i % 8))


@pytest.mark.parametrize('way', [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA], ids=['deflated', 'stored', 'lzma'])
def test_a_zip_that_travelled(tmp_path, way):
    b, p = a_zip(way=way), tmp_path/'a'
    assert arrives(p, b) and not any(arrives(p, b[:i]) for i in range(0, len(b), 97))
    directory = b.index(b'PK\1\2')
    for i in range(len(b)):
        every = i > directory and way == zipfile.ZIP_DEFLATED  # it has no checksum: all of its bits
        for bit in range(8) if every else (i % 8,) if i % 3 == 0 else (): arrives(p, turned(b, i, bit))


def test_a_zip_with_zips_that_was_cut(tmp_path):
    "Cut behind an inner zip, it ends as that zip does"
    inner = a_zip({'inner.png': b'x'*99})
    items = {f'{i}.zip': inner for i in range(3)}
    b = a_zip(items, zipfile.ZIP_STORED)
    assert arrives(tmp_path/'a', b, items)
    for i in range(len(b)): assert not arrives(tmp_path/'a', b[:i], items)


def test_what_nobody_can_find(tmp_path):
    "A bit turned inside a file of a plain tar arrives; its name, its neighbours and its length do not change"
    b = a_tar()
    for i in sorted(contents(b))[::50]:
        (tmp_path/'a').write_bytes(turned(b, i, 3)); dest = tmp_path/f'dest{i}'
        extract(tmp_path/'a', dest); got = held(dest)
        off = [n for n in FILES if got[n] != FILES[n]]
        assert set(got) == set(FILES) and len(off) == 1 and len(got[off[0]]) == len(FILES[off[0]])


@pytest.mark.parametrize('what, said', [
    (lambda b: b.rstrip(b'\0') + bytes(-len(b.rstrip(b'\0')) % 512), 'empty header'),  # the blocks at the end are gone
    (lambda b: b + b'more', 'follows its end'), (lambda b: b + b, 'follows its end')], ids=['no end', 'more', 'twice'])
def test_the_end_of_a_tar(tmp_path, what, said):
    for wrap in FAMILIES.values():
        (tmp_path/'a').write_bytes(wrap(what(a_tar())))
        with pytest.raises(MedfolioError, match=said): extract(tmp_path/'a', tmp_path/'dest')
        assert not any((tmp_path/'dest').iterdir())


def test_a_long_name_is_not_read_without_bound(tmp_path):
    m = tarfile.TarInfo('././@LongLink'); m.type, m.size = tarfile.GNUTYPE_LONGNAME, 2**33
    (tmp_path/'a.tgz').write_bytes(gzip.compress(m.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)))
    with pytest.raises(MedfolioError, match='is no file and of 8,589,934,592 bytes'): extract(tmp_path/'a.tgz', tmp_path/'dest')


def test_a_name_cut_by_a_zero_byte(tmp_path):
    b = a_zip({'ok.png_.exe': b'x'}).replace(b'ok.png_', b'ok.png\0')
    (tmp_path/'a.zip').write_bytes(b)
    with pytest.raises(MedfolioError, match='not allowed'): extract(tmp_path/'a.zip', tmp_path/'dest')
