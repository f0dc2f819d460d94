"""The table of bad inputs: a line each, of what is called and what has to be said.

In a command ``{name}`` is a good thing of ``conftest.good`` or a file of :data:`FILES`, made when
it is named; ``{out}`` is a place where nothing is, and where nothing may be afterwards.
"""

import gzip
import io
import json
import os
import struct
import zlib

T = "train --accelerator cpu --steps 2 --batch 4 --out {out}"
CSV = f"{T} --data csv:{{table}} --target ill --domain site --hold-out c"
OF = f"{T} --target ill --domain site --hold-out c --data"
PHOTOS = f"{T} --hold-out west --backbone mnist-cnn --size 28 --data"
SWEEP = "sweep --draws 1 --trials 1 --steps 2 --jobs 1 --accelerator cpu --out {out}"
HEAD = "site,ill,age\n"
ROWS = "".join(f"{site},{n % 2},{n}\n" for site in "abc" for n in range(6))


def png(width, height):
    """The beginning of a picture that says how large it is, and holds one color."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    row = b"\0" * (1 + 3 * width)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def arrays(packed=False, **changed):
    """A file of embeddings, of which something is changed."""
    import numpy as np

    told = {"embeddings": np.ones((6, 2)), "label": np.array(list("xyxyxy")),
            "domain": np.array(list("aabbcc"))}  # fmt: skip
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(
        file, **{name: value for name, value in (told | changed).items() if value is not None}
    )
    return file.getvalue()


def saved(**changed):
    return lambda place, _: place.write_bytes(arrays(**changed))


def zeros(place, _):
    import numpy as np

    place.write_bytes(arrays(packed=True, embeddings=np.zeros((2**24, 2), np.float32)))


def among_photos(name, content):
    """Good photographs, and one more file."""

    def make(place, good):
        import shutil

        shutil.copytree(good["photos"], place)
        content(place / "north" / "cat" / name)

    return make


def text(content):
    return lambda place, _: place.write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def bytes_of(content):
    return lambda place: place.write_bytes(content() if callable(content) else content)


FILES = {
    "empty.csv": text(""),
    "header.csv": text(HEAD),
    "ragged.csv": text(HEAD + ROWS + "a,1\n"),
    "twice.csv": text("site,ill,ill\n" + ROWS),
    "latin.csv": text((HEAD + ROWS).encode() + b"\xff\xe9,1,2\n"),
    "nul.csv": text((HEAD + ROWS).encode() + b"\0\0\0\n"),
    "semicolons.csv": text((HEAD + ROWS).replace(",", ";")),
    "one-class.csv": text(HEAD + ROWS.replace(",1,", ",0,")),
    "one-domain.csv": text(HEAD + ROWS.replace("b,", "a,").replace("c,", "a,")),
    "infinite.csv": text(HEAD + ROWS.replace(",5\n", ",1e999\n")),
    "huge.csv": text(HEAD + ROWS.replace(",5\n", ",1e300\n")),
    "open-quote.csv": text(HEAD + ROWS + 'a,1,"3\n'),
    "wide-field.csv": text(HEAD + ROWS + "a,1," + "9" * 200_000 + "\n"),
    "texts.csv": text(HEAD + ROWS.replace(",5\n", ",five\n")),
    "nothing-left.csv": text("site,ill\n" + "a,1\nb,0\n"),
    "bomb.csv.gz": lambda place, _: place.write_bytes(gzip.compress(b"a,b\n" * 2**26, 9)),
    "cut.csv.gz": text(gzip.compress((HEAD + ROWS).encode())[:-9]),
    "flipped.csv.gz": text(gzip.compress((HEAD + ROWS).encode())[:-6] + b"123456"),
    "pipe.csv": lambda place, _: os.mkfifo(place),
    "folder.csv": lambda place, _: place.mkdir(),
    "link.csv": lambda place, _: place.symlink_to(place),
    "deep.json": text("[" * 200_000),
    "deep-closed.json": text("[" * 200_000 + "]" * 200_000),
    "broken.json": text('[{"path": "a.png"'),
    "number.json": text("3"),
    "nan.json": text('[{"path": NaN, "label": 1, "domain": "a"}]'),
    "labels.json": text('[{"path": "a.png", "label": 1.5, "domain": "a"}]'),
    "lists.json": text('{"path": ["a"], "label": [], "domain": []}'),
    "no-images.json": text("[]"),
    "no-files.json": text('[{"path": "x.png", "label": "a", "domain": "b"}]'),
    "utf-16.json": text("[]".encode("utf-16")),
    "pipe.json": lambda place, _: os.mkfifo(place),
    "deep.yaml": text("a: " + "[" * 20_000 + "]" * 20_000),
    "aliases.yaml": text(
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        )
    ),
    "python.yaml": text("data: !!python/object/apply:os.system [touch x]\nhold_out: a\n"),
    "list.yaml": text("- 1\n- 2\n"),
    "empty.yaml": text(""),
    "numbered.yaml": text("1: 2\n"),
    "binary.yaml": text(bytes(range(256))),
    "pipe.yaml": lambda place, _: os.mkfifo(place),
    "empty-picture": among_photos("x.png", bytes_of(b"")),
    "text-picture": among_photos("x.png", bytes_of(b"not a picture at all")),
    "cut-picture": among_photos("x.png", bytes_of(lambda: png(64, 64)[:-30])),
    "pipe-picture": among_photos("x.png", os.mkfifo),
    "large-picture": among_photos("x.png", bytes_of(lambda: png(13_000, 13_000))),
    "larger-picture": among_photos("x.png", bytes_of(lambda: png(30_000, 30_000))),
    "markup-picture": among_photos("[b]\x1b[31m.png", bytes_of(b"")),
    "long-loop": among_photos("x.png", lambda place: place.symlink_to(place)),
    "no-classes": lambda place, _: [(place / d).mkdir(parents=True) for d in ("a", "b")],
    "weights.pt": text(b"PK\x03\x04 no weights"),
    "weights.safetensors": text(struct.pack("<Q", 2**62) + b"{}"),
    "weights.npz": text(b"PK\x05\x06" + b"\0" * 18),
    "code.pt": text(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x07touch x\x85R."),
    "pipe.pt": lambda place, _: os.mkfifo(place),
    "words.txt": text("words"),
    "empty.npz": text(b""),
    "words.npz": text(b"words"),
    "cut.npz": lambda place, _: place.write_bytes(arrays()[:-30]),
    "pipe.npz": lambda place, _: os.mkfifo(place),
    "folder.npz": lambda place, _: place.mkdir(),
    "no-vectors.npz": saved(embeddings=None),
    "no-labels.npz": saved(label=None),
    "no-domains.npz": saved(domain=None),
    "short.npz": saved(label=["x", "y"]),
    "one-domain.npz": saved(domain=["a"] * 6),
    "one-class.npz": saved(label=["x"] * 6),
    "infinite.npz": saved(embeddings=[[float("inf"), 0.0]] * 6),
    "objects.npz": saved(label=[{}] * 6),
    "maker.npz": saved(made_by="{"),
    "other-maker.npz": saved(made_by='{"x": 1}'),
    "bomb.npz": zeros,
    "bomb.xlsx": zeros,
    "words.safetensors": text(b"words"),
    "huge.safetensors": text(struct.pack("<Q", 2**62) + b"{}"),
    "words.parquet": text(b"words"),
    "mine.npz": text(b"mine"),
    "words.dat": text("words"),
    "no-run": lambda place, _: place.mkdir(),
    "faces-deep": lambda place, _: (
        (place / "O").mkdir(parents=True),
        (place / "O" / "train_label.json").write_text("[" * 100_000),
    ),
    "faces-wrong": lambda place, _: (
        (place / "O").mkdir(parents=True),
        (place / "O" / "train_label.json").write_text(json.dumps([{"photo_path": 1}])),
    ),
    "oulu-pipe": lambda place, _: (
        (place / "Train_files").mkdir(parents=True),
        os.mkfifo(place / "Train_files" / "1_1_01_1.avi"),
    ),
    "oulu-empty": lambda place, _: (place / "Train_files" / "1_1_01_1").mkdir(parents=True),
    "oulu-text": lambda place, _: (
        (place / "Train_files" / "1_1_01_1").mkdir(parents=True),
        (place / "Train_files" / "1_1_01_1" / "1.png").write_text("no picture"),
    ),
}
"""What is wrong with a file, by its name."""

NPZ = f"{T} --hold-out a --data embeddings:"
W = "--backbone squeezenet --weights {weights}"
EMBED = "embed --data {photos} --size 32 --accelerator cpu"

COMMANDS = [
    # Embeddings.
    (f"{NPZ}{{empty.npz}}", "cannot be read"),
    (f"{NPZ}{{words.npz}}", "cannot be read"),
    (f"{NPZ}{{cut.npz}}", "cannot be read"),
    (f"{NPZ}{{pipe.npz}}", "found none"),
    (f"{NPZ}{{folder.npz}}", "found none"),
    (f"{NPZ}/no/such.npz", "found none"),
    (f"{NPZ}{{words.txt}}", "found .txt"),
    (f"{NPZ}{{no-vectors.npz}}", "vector"),
    (f"{NPZ}{{no-labels.npz}}", "label"),
    (f"{NPZ}{{no-domains.npz}}", "domain"),
    (f"{NPZ}{{short.npz}}", "expected one value for each of the 6 vectors"),
    (f"{NPZ}{{one-domain.npz}}", "expected two domains or more"),
    (f"{NPZ}{{one-class.npz}}", "class"),
    (f"{NPZ}{{infinite.npz}}", "finite"),
    (f"{NPZ}{{objects.npz}}", "no python objects"),
    (f"{NPZ}{{maker.npz}}", "made_by"),
    (f"{NPZ}{{other-maker.npz}}", "made_by"),
    (f"{NPZ}{{bomb.npz}}", "unpack"),
    (f"{OF} csv:{{bomb.xlsx}}", "unpack"),
    (f"{PHOTOS} {{photos}} --weights {{bomb.npz}}", "unpack"),
    (f"{NPZ}{{words.safetensors}}", "cannot be read"),
    (f"{NPZ}{{huge.safetensors}}", "cannot be read"),
    (f"{NPZ}{{words.parquet}}", "words.parquet"),
    (f"{EMBED} --out {{out}}", "written to an .npz"),
    (f"{EMBED} --out {{mine.npz}} --backbone squeezenet", "has not written"),
    (f"{EMBED} --out {{out}}.npz", "backbone"),
    (f"{EMBED} --out {{out}}.npz --backbone no-such", "no-such"),
    (f"{EMBED} --out {{out}}.npz --backbone squeezenet", "needs its weights"),
    (
        f"{EMBED} --out {{out}}.npz --backbone squeezenet --weights /no/such.pt",
        "no file of weights",
    ),
    (f"{EMBED} --out {{out}}.npz --backbone squeezenet --weights {{words.txt}}", "weights"),
    (f"{EMBED} --out {'x' * 300}.npz {W}", "name too long"),
    (f"{EMBED} --out {{words.txt}}/a.npz {W}", "directory"),
    (f"embed --data spirals --out {{out}}.npz {W} --accelerator cpu", "embeddings of images"),
    ("export {run} --to torchscript --out {mine.npz}", "has not written"),
    ("export {run} --to paper", "paper"),
    ("export {run} --to torchscript --check /no/such.csv", "such.csv"),
    ("export /no/such --to torchscript", "is no run"),
    # Data that are not there, or are something else.
    (f"{OF} csv:/no/such.csv", "no such file"),
    (f"{OF} /no/such.csv", "no such file"),
    (f"{OF} csv:", "found no path"),
    (f"{OF} nothing:x", "no kind of data 'nothing'"),
    (f"{OF} ''", "expected data"),
    (f"{OF} csv:{{words.txt}}", "no rows"),
    (f"{OF} {{words.dat}}", "neither a folder nor a file that ends in"),
    (f"{OF} csv:{{no-run}}", "directory"),
    (f"{OF} csv:{'x' * 5000}.csv", "name too long"),
    (f"{OF} {'x/' * 3000}", "name too long"),
    (f"{OF} python:x", "memory of a python program"),
    (f"{T} --hold-out c", "expected the setting data"),
    (f"{T} --data csv:{{table}}", "expected the setting hold_out"),
    (f"{T} --data csv:{{table}} --hold-out c", "target"),
    (f"{OF} csv:{{empty.csv}}", "is empty"),
    (f"{OF} csv:{{header.csv}}", "no rows"),
    (f"{OF} csv:{{ragged.csv}}", "expected 3 fields"),
    (f"{OF} csv:{{twice.csv}}", "more than one column called"),
    (f"{OF} csv:{{latin.csv}} --encoding utf-8", "utf-8"),
    (f"{OF} csv:{{nul.csv}}", "{nul.csv}"),
    (f"{OF} csv:{{semicolons.csv}} --separator comma", "column"),
    (f"{OF} csv:{{one-class.csv}}", "should"),
    (f"{OF} csv:{{one-domain.csv}}", "two domains or more"),
    (f"{OF} csv:{{infinite.csv}}", "{infinite.csv}"),
    (f"{OF} csv:{{huge.csv}}", "{huge.csv}"),
    (f"{OF} csv:{{open-quote.csv}}", "should be a table as text"),
    (f"{OF} csv:{{wide-field.csv}}", "field larger than field limit"),
    (f"{OF} csv:{{texts.csv}}", "five"),
    (f"{OF} csv:{{nothing-left.csv}}", "no column to predict from"),
    (f"{OF} csv:{{bomb.csv.gz}}", "unpack"),
    (f"{OF} csv:{{cut.csv.gz}}", "cannot be read"),
    (f"{OF} csv:{{flipped.csv.gz}}", "cannot be read"),
    (f"{OF} csv:{{pipe.csv}}", "no plain file"),
    (f"{OF} csv:{{folder.csv}}", "directory"),
    (f"{OF} csv:{{link.csv}}", "levels of symbolic links"),
    (f"{T} --data csv:{{table}} --target x --domain site --hold-out c", "no column 'x'"),
    (f"{T} --data csv:{{table}} --target ill --domain x --hold-out c", "no column 'x'"),
    (f"{T} --data csv:{{table}} --target ill --domain ill --hold-out c", "ill"),
    (f"{CSV} --group x", "no column 'x'"),
    (f"{CSV} --drop x", "no column 'x'"),
    (f"{CSV} --drop kind,age,person", "no column to predict from"),
    (f"{CSV} --categorical x", "no column 'x'"),
    (f"{CSV} --size 32", "take no size"),
    (f"{CSV} --task guessing", "guessing"),
    (f"{CSV} --hold-out x", "no domain 'x'"),
    (f"{T} --data manifest:{{deep.json}} --hold-out a", "nested too deeply"),
    (f"{T} --data manifest:{{deep-closed.json}} --hold-out a", "nested too deeply"),
    (f"{T} --data manifest:{{broken.json}} --hold-out a", "cannot be read"),
    (f"{T} --data manifest:{{number.json}} --hold-out a", "expected a list of objects"),
    (f"{T} --data manifest:{{nan.json}} --hold-out a", "expected a text"),
    (f"{T} --data manifest:{{labels.json}} --hold-out a", "expected a text"),
    (f"{T} --data manifest:{{lists.json}} --hold-out a", "same length"),
    (f"{T} --data manifest:{{no-images.json}} --hold-out a", "lists no images"),
    (f"{T} --data manifest:{{no-files.json}} --hold-out a", "do not exist"),
    (f"{T} --data manifest:{{utf-16.json}} --hold-out a", "cannot be read"),
    (f"{T} --data manifest:{{pipe.json}} --hold-out a", "manifest"),
    (f"{PHOTOS} {{empty-picture}}", "the file is empty"),
    (f"{PHOTOS} {{text-picture}}", "no image format"),
    (f"{PHOTOS} {{cut-picture}}", "cannot be decoded"),
    (f"{PHOTOS} {{pipe-picture}}", "no plain file"),
    (f"{PHOTOS} {{pipe-picture}} --fetch as-needed", "not there"),
    (f"{PHOTOS} {{large-picture}}", "pixels"),
    (f"{PHOTOS} {{larger-picture}}", "pixels"),
    (f"{PHOTOS} {{markup-picture}}", "[b]\\x1b[31m.png"),
    (f"{PHOTOS} {{long-loop}}", "symbolic links"),
    (f"{PHOTOS} {{no-classes}}", "expected images"),
    (f"{PHOTOS} {{photos}}/north", "without a level of domains"),
    (f"{PHOTOS} folder:{{table}}", "found a file"),
    (f"{PHOTOS} {{photos}} --size 0", "1 or more"),
    (f"{PHOTOS} {{photos}} --size -5", "1 or more"),
    (f"{PHOTOS} {{photos}} --size 1000000", "make room"),
    (f"{PHOTOS} {{photos}} --size 99999999999", "make room"),
    (f"{PHOTOS} {{photos}} --stored-size 3", "smaller than they are seen"),
    (f"{PHOTOS} {{photos}} --group '('", "regular expression"),
    (f"{PHOTOS} {{photos}} --fetch sometimes", "sometimes"),
    (f"{PHOTOS} {{photos}} --target x", "take no target"),
    (f"{T} --data faces:{{no-run}} --hold-out O", "{no-run}"),
    (f"{T} --data faces:{{faces-deep}} --hold-out O", "nested too deeply"),
    (f"{T} --data faces:{{faces-wrong}} --hold-out O", "photo"),
    (f"{T} --data colored-mnist:{{words.txt}} --hold-out=-90%", "{words.txt}"),
    (f"{T} --data pacs:{{no-run}} --hold-out sketch", "{no-run}"),
    # Settings.
    (f"{CSV} --method x", "no method 'x'"),
    (f"{CSV} --method ''", "no method ''"),
    (f"{CSV} --steps 0", "greater than or equal to 1"),
    (f"{CSV} --steps -1", "greater than or equal to 1"),
    (f"{CSV} --steps x", "steps"),
    (f"{CSV} --steps 1e3", "steps"),
    (f"{CSV} --steps 99999999999999999999", "less than or equal"),
    (f"{CSV} --batch 0", "greater than or equal to 1"),
    (f"{CSV} --batch 999999999999", "less than or equal"),
    (f"{CSV} --learning-rate 0", "greater than 0"),
    (f"{CSV} --learning-rate nan", "finite"),
    (f"{CSV} --learning-rate inf", "finite"),
    (f"{CSV} --weight-decay -1", "greater than or equal to 0"),
    (f"{CSV} --momentum 1", "less than 1"),
    (f"{CSV} --dropout 1", "less than 1"),
    (f"{CSV} --checkpoints 0", "greater than or equal to 1"),
    (f"{CSV} --workers -1", "greater than or equal to 0"),
    (f"{CSV} --accelerator tpu", "accelerator"),
    (f"{CSV} --accelerator x", "accelerator"),
    (f"{CSV} --accelerator cuda", "accelerator"),
    (f"{CSV} --accelerator ''", "accelerator"),
    (f"{CSV} --precision 8", "precision"),
    (f"{CSV} --precision 16-mixed", "needs a gpu"),
    (f"{CSV} --backbone x", "backbone"),
    (f"{CSV} --backbone timm:x", "timm"),
    (f"{CSV} --backbone mnist-cnn", "mnist-cnn"),
    (f"{CSV} --optimizer x", "optimizer"),
    (f"{CSV} --schedule x", "schedule"),
    (f"{CSV} --metric x", "no metric 'x'"),
    (f"{CSV} --metric r2", "expected a metric of classification"),
    (f"{CSV} --average x", "average"),
    (f"{CSV} --average ema", "before training ends"),
    (f"{CSV} --average swad", "checkpoints or more"),
    (f"{CSV} --balance x", "balance"),
    (f"{CSV} --frozen-norms", "no norms to freeze"),
    (f"{CSV} --set tau", "expected --set name=value"),
    (f"{CSV} --set =1", "expected --set name=value"),
    (f"{CSV} --set tau=1", "no hyper-parameter of erm 'tau'"),
    (f"{CSV} --method and-mask --set tau=much", "tau of and-mask"),
    (f"{CSV} --method and-mask --set tau=7", "tau"),
    (f"{CSV} --method and-mask --set tau=nan", "tau"),
    (f"{CSV} --method and-mask --set tau=0.5 --set tau=0.6", "twice"),
    (f"{CSV} --loggers x", "no logger 'x'"),
    (f"{CSV} --devices 0", "at least 1"),
    (f"{CSV} --devices 2 --batch 1 --method fish", "one process only"),
    (f"{CSV} --devices 99", "some of 99 processes would have none"),
    (f"{CSV} --nodes 0", "at least 1"),
    (f"{CSV} --nodes 2 --batch 4", "master_addr"),
    (f"{CSV} --plugin x.y.z", "cannot be imported"),
    (f"{CSV} --plugin ../evil", "named as for"),
    (f"{CSV} --seed x", "seed"),
    (f"{CSV} --weights /no.pt", "no file of weights"),
    (f"{CSV} --weights {{weights.pt}}", "cannot be read"),
    (f"{CSV} --weights {{weights.safetensors}}", "cannot be read"),
    (f"{CSV} --weights {{weights.npz}}", "tensors by name"),
    (f"{CSV} --weights {{code.pt}}", "cannot be read"),
    (f"{CSV} --weights {{pipe.pt}}", "no file of weights"),
    (f"{CSV} --weights {{words.txt}}", "weights are read from"),
    (f"{CSV} --weights {{run}}", "no file of weights"),
    (f"{CSV} --no-such-option", "no such option"),
    (f"{CSV} --out {{words.txt}}", "is a file"),
    (f"{CSV} --out {{words.txt}}/run", "not a directory"),
    (f"{CSV} --out /proc/run", "/proc/run"),
    (f"{CSV} --out {'x' * 300}", "name too long"),
    (f"{CSV} --out {{photos}}", "holds no run but other files"),
    (f"{CSV} --out {{sweep}}", "holds no run but other files"),
    # Settings in files.
    (f"{T} --config /no/such.yaml", "expected the settings of a run"),
    (f"{T} --config {{deep.yaml}}", "no yaml of settings"),
    (f"{T} --config {{aliases.yaml}}", "without anchors and aliases"),
    (f"{T} --config {{python.yaml}}", "no yaml of settings"),
    (f"{T} --config {{list.yaml}}", "expected settings by name"),
    (f"{T} --config {{empty.yaml}}", "expected settings by name"),
    (f"{T} --config {{numbered.yaml}}", "expected settings by name"),
    (f"{T} --config {{binary.yaml}}", "no yaml of settings"),
    (f"{T} --config {{pipe.yaml}}", "plain file"),
    (f"{T} --config {{no-run}}", "expected the settings of a run"),
    (f"{T} --config {{sweep}}", "expected the settings of a run"),
    # Use of runs that are none.
    ("evaluate {no-run}", "is no run"),
    ("evaluate /no/such", "is no run"),
    ("evaluate {words.txt}", "is no run"),
    ("evaluate {sweep}", "is no run"),
    ("evaluate {run} --data csv:{empty.csv}", "is empty"),
    ("evaluate {run} --data spirals", "take no target"),
    ("evaluate {run} --data {photos}", "take no target"),
    ("evaluate {run} --by-group", "no groups"),
    ("evaluate {seen} --data {empty-picture}", "the file is empty"),
    ("evaluate {seen} --data {pipe-picture}", "no plain file"),
    ("evaluate {run} --plot {words.txt}", "has not written"),
    ("evaluate {run} --plot /no/such/place.png", "cannot be written"),
    ("evaluate {run} --plot {out}.xyz", "cannot be written"),
    ("inspect {no-run}", "is no run"),
    ("inspect {run} --samples 0", "at least 4"),
    ("inspect {run} --samples 99999999999999", "memory"),
    ("inspect {run} --plot {words.txt}", "has not written"),
    ("inspect {run} --plot /no/such/place.png", "cannot be written"),
    ("predict {no-run} {table}", "is no run"),
    ("predict {run} /no/such.csv", "nothing of that pattern"),
    ("predict {run} {photos}", "{photos}"),
    ("predict {run} {empty.csv}", "is empty"),
    ("predict {run} {pipe.csv}", "no plain file"),
    ("predict {run} {bomb.csv.gz}", "unpack"),
    ("predict {run} {header.csv}", "no rows"),
    ("predict {seen} {table}", "cannot be decoded"),
    ("predict {seen} {pipe-picture}", "no plain file"),
    ("predict {seen} {large-picture}", "pixels"),
    ("predict {seen} {no-classes}", "holds no image file"),
    ("predict {words.txt} {table}", "cannot read a model"),
    ("predict {weights.safetensors} {table}", "cannot read a model"),
    ("predict {run} {table} --csv --json", "found both"),
    # Sweeps.
    (f"{SWEEP} --data spirals --methods x", "no method 'x'"),
    (f"{SWEEP} --data x --methods erm", "no data set 'x'"),
    (f"{SWEEP} --data , --methods erm", "at least one name"),
    (f"{SWEEP} --data spirals --methods ,", "at least one name"),
    (f"{SWEEP} --data spirals --methods erm --draws 0", "greater than or equal to 1"),
    (f"{SWEEP} --data spirals --methods erm --trials 0", "greater than or equal to 1"),
    (f"{SWEEP} --data spirals --methods erm --trials -3", "greater than or equal to 1"),
    (f"{SWEEP} --data spirals --methods erm --jobs 0", "at least 1"),
    (f"{SWEEP} --data spirals --methods erm --per-gpu 0", "at least 1"),
    (f"{SWEEP} --data spirals --methods erm --selection x", "no selection method"),
    (f"{SWEEP} --data spirals --methods erm --hold-out x", "domain to hold out"),
    (f"{SWEEP} --data spirals --methods erm --address x", "ray"),
    (f"{SWEEP} --data spirals --methods erm --launcher x", "launcher"),
    (f"{SWEEP} --data spirals --methods erm --accelerator tpu", "accelerator"),
    (f"{SWEEP} --data csv:{{pipe.csv}} --methods erm", "no plain file"),
    (f"{SWEEP} --data spirals --methods erm --out {{words.txt}}", "is a file"),
    (f"{SWEEP} --data spirals --methods erm --out /proc/sweep", "/proc/sweep"),
    ("compare --data x --out {out}", "no data set 'x'"),
    ("compare --methods x --out {out}", "no method 'x'"),
    ("compare --trials 0 --out {out}", "greater than or equal to 1"),
    ("compare --steps 0 --out {out}", "greater than or equal to 1"),
    ("compare --jobs 0 --out {out}", "at least 1"),
    ("compare --out {words.txt}", "is a file"),
    ("compare --out {sweep} --data spirals --methods erm --trials 1 --steps 2", "holds a sweep"),
    ("ablate gsnr --data x --out {out}", "no data set 'x'"),
    ("ablate gsnr --trials 0 --out {out}", "greater than or equal to 1"),
    ("ablate gsnr --out {words.txt}", "is a file"),
    ("report {no-run}", "is no sweep"),
    ("report /no/such", "is no sweep"),
    ("report {run}", "is no sweep"),
    ("report {sweep} --out {words.txt}", "is a file"),
    ("report {sweep} --format x", "format"),
    ("report {sweep} --against x", "against"),
    # Faces.
    ("prepare-faces x {no-run} {out}", "no set of faces 'x'"),
    ("prepare-faces oulu-npu /no/such {out}", "there is no folder"),
    ("prepare-faces oulu-npu {no-run} {out}", "found no video"),
    ("prepare-faces oulu-npu {oulu-empty} {out}", "expected frames"),
    ("prepare-faces oulu-npu {oulu-empty} {out} --frames 0", "at least 1 frame"),
    ("prepare-faces msu-mfsd {oulu-empty} {out}", "found"),
    ("fas-synthetic {out} --size 1", "expected a size"),
    ("fas-synthetic {out} --size 99999", "expected a size"),
    ("fas-synthetic {out} --subjects 0", "expected subjects"),
    ("fas-synthetic {out} --frames 0", "expected frames"),
    ("fas-synthetic {out} --seed -1", "expected seed"),
    ("fas-synthetic {words.txt}", "found a file"),
    ("fas-synthetic {photos}", "expected an empty folder"),
    ("no-such-command", "no such command"),
    ("train extra-argument", "unexpected extra argument"),
]

LATER = [
    ("prepare-faces oulu-npu {oulu-pipe} {out}", "cannot be"),
    ("prepare-faces oulu-npu {oulu-text} {out}", "cannot be read"),
]
"""Those that have written a place of ours before they look into a video."""

NESTED, LISTS = {"a": {"b": 1}}, [[1], [2]]
WRONG = [
    ("data hold_out also_hold_out method backbone weights metric accelerator",
     [7, NESTED, LISTS, True, "\x1b[31m[/A]\n"]),
    ("hyperparameters data_options", [7, "x", LISTS, {"x": NESTED}]),
    ("steps batch warm_up checkpoints workers average_from", ["x", NESTED, LISTS, -1, True, 1.5]),
    ("dropout learning_rate weight_decay momentum clip_norm average_decay average_ratio",
     ["x", NESTED, LISTS, -1, True, float("inf"), float("nan")]),
    ("balance optimizer schedule average precision", ["x", 7, NESTED, LISTS]),
    ("frozen_norms compile", ["x", 7, NESTED, LISTS]),
    ("augment", [7, NESTED, LISTS, True, [], ["blur"], ["none", "flip"]]),
    ("seed trial", ["x", NESTED, LISTS, True, 1.5]),
    ("plugins", [7, NESTED, [[1]], ["no.such.plugin"], ["os\x00"]]),
    ("no_such_setting", [1]),
]  # fmt: skip
"""Settings, and values that they cannot have; a run's own file with one of them is refused."""
SETTINGS = [(name, value) for names, values in WRONG for name in names.split() for value in values]
