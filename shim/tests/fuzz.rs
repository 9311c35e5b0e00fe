//! Runs the fuzz targets of the pack protocol in an ordinary test: the corpus as it is, and then changed at random, the same
//! way each time. `AGENT_SHIM_FUZZ_INPUTS` says how often.

use std::{fs, panic, path::PathBuf};

use agent_shim::repo::fuzzing;

/// Changed inputs per target, unless the environment says otherwise.
const INPUTS: u64 = 50_000;

/// A target by the name of its corpus folder.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 3] =
    [("conversation", fuzzing::conversation), ("packets", fuzzing::packets), ("name", fuzzing::name)];

/// Words that a server could say, or nearly.
const WORDS: [&[u8]; 40] = [
    b"0000",
    b"0001",
    b"0002",
    b"0003",
    b"0004",
    b"fff0",
    b"ffff",
    b"000eversion 2\n",
    b"version 1\n",
    b"ls-refs=unborn",
    b"fetch=shallow",
    b"object-format=sha256",
    b"object-format=",
    b"0014acknowledgments\n",
    b"acknowledgments",
    b"000dpackfile\n",
    b"shallow-info",
    b"packfile-uris",
    b"wanted-refs",
    b"0008NAK\n",
    b"000aready\n",
    b"ready",
    b"ACK ",
    b"ERR ",
    b"unborn",
    b" symref-target:",
    b" peeled:",
    b"HEAD",
    b"refs/heads/",
    b"refs/tags/",
    b"refs/agents/snapshots/",
    b"refs/stash",
    b"refs/agents/web/",
    b"/../",
    b"@{",
    b".lock",
    b"\x01PACK\0\0\0\x02\xff\xff\xff\xff",
    b"\x1b]0;x\x07",
    b"\xe2\x80\xae",
    b"0000000000000000000000000000000000000000",
];

/// A seeded source of numbers (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).unwrap_or(0) % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// A packet as a server writes it.
fn packet(data: &[u8]) -> Vec<u8> {
    let mut out = format!("{:04x}", data.len() + 4).into_bytes();
    out.extend_from_slice(data);
    out
}

fn said(first: u8, packets: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![first];
    for one in packets {
        if matches!(*one, b"0000" | b"0001" | b"0002") {
            out.extend_from_slice(one);
        } else {
            out.extend(packet(one));
        }
    }
    out
}

/// What the fuzzers begin with: whole conversations, and names.
fn seeds() -> Vec<(PathBuf, Vec<u8>)> {
    let id = "0123456789abcdef0123456789abcdef01234567";
    let long = id.repeat(2)[..64].to_owned();
    let line = |name: &str| format!("{id} {name}\n").into_bytes();
    let greeting: [&[u8]; 5] =
        [b"version 2\n", b"agent=git/2.47\n", b"ls-refs=unborn\n", b"fetch=shallow wait-for-done\n", b"0000"];
    let head = line("HEAD symref-target:refs/heads/main");
    let names = [
        "refs/heads/main",
        "refs/heads/a/b",
        "refs/tags/v1 peeled:89abcdef0123456789abcdef0123456789abcdef",
        "refs/stash",
        "refs/agents/snapshots/main/1",
    ];
    let lines: Vec<Vec<u8>> = names.iter().map(|name| line(name)).collect();
    let refs: Vec<&[u8]> =
        [&head[..]].into_iter().chain(lines.iter().map(Vec::as_slice)).chain([&b"0000"[..]]).collect();
    let pack: [&[u8]; 5] =
        [b"packfile\n", b"\x02counting\n", b"\x01PACK\0\0\0\x02\0\0\0\x01", b"\x01more", b"0000"];
    let ack = format!("ACK {id}\n").into_bytes();
    let short: [&[u8]; 4] = [b"acknowledgments\n", &ack, b"ready\n", b"0001"];
    let nak: [&[u8]; 3] = [b"acknowledgments\n", b"NAK\n", b"0000"];
    let shallow: [&[u8]; 3] = [b"shallow-info\n", b"shallow x\n", b"0001"];
    let sha256: [&[u8]; 5] = [b"version 2\n", b"ls-refs\n", b"fetch\n", b"object-format=sha256\n", b"0000"];
    let sha256_line = format!("{long} refs/heads/main\n").into_bytes();
    let conversations: [(&str, Vec<u8>); 9] = [
        ("everything", said(0, &[&greeting[..], &refs, &pack].concat())),
        ("enough", said(3, &[&greeting[..], &refs, &short, &pack].concat())),
        ("two-turns", said(2, &[&greeting[..], &refs, &nak, &pack].concat())),
        ("shallow", said(0, &[&greeting[..], &refs, &shallow, &pack].concat())),
        ("sha256", said(0, &[&sha256[..], &[&sha256_line, b"0000"], &pack].concat())),
        (
            "empty",
            said(1, &[&greeting[..], &[b"unborn HEAD symref-target:refs/heads/main\n", b"0000"]].concat()),
        ),
        ("error", said(0, &[&greeting[..], &[b"ERR \x1b[2Jno\n"]].concat())),
        ("band-3", said(0, &[&greeting[..], &refs, &[b"packfile\n", b"\x03fatal: no\n"]].concat())),
        ("version-0", said(0, &[&[&head[..]], &refs[..]].concat())),
    ];
    let mut seeds = Vec::new();
    for (name, bytes) in conversations {
        seeds.push((folder("packets").join(format!("seed-{name}")), bytes[1..].to_vec()));
        seeds.push((folder("conversation").join(format!("seed-{name}")), bytes));
    }
    for (number, name) in [
        "HEAD",
        "refs/heads/main",
        "refs/stash",
        "refs/notes/a/b",
        "refs/heads/-x",
        "refs/heads/\u{202e}\u{fc}",
        "refs/agents/snapshots/main/1",
    ]
    .iter()
    .enumerate()
    {
        seeds.push((folder("name").join(format!("seed-{number}")), name.as_bytes().to_vec()));
    }
    seeds
}

/// The same input, a little or quite different.
fn changed(input: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(out.len() + 1);
        let end = at + numbers.below(out.len() - at + 1);
        match numbers.below(9) {
            0 => out.truncate(at),
            1 => drop(out.drain(at..end)),
            2 => out.insert(at, numbers.byte()),
            3 if at < out.len() => out[at] = numbers.byte(),
            4 if at < out.len() => out[at] ^= 1 << numbers.below(8),
            5 => {
                let again = out[at..end].to_vec();
                out.splice(at..at, again);
            }
            // A word, with the right length in front of it or without.
            6 => drop(out.splice(at..at, WORDS[numbers.below(WORDS.len())].iter().copied())),
            7 => {
                let word = packet(WORDS[numbers.below(WORDS.len())]);
                drop(out.splice(boundary(&out, at)..boundary(&out, at), word));
            }
            8 => {
                let (from, to) = (boundary(other, numbers.below(other.len() + 1)), boundary(&out, at));
                out.truncate(to);
                out.extend_from_slice(&other[from..]);
            }
            _ => {}
        }
        out.truncate(100_000);
    }
    out
}

/// The last place at or before `at` where a packet begins.
fn boundary(bytes: &[u8], at: usize) -> usize {
    let mut place = 1.min(bytes.len());
    while let Some(length) = bytes.get(place..place + 4).and_then(|head| std::str::from_utf8(head).ok()) {
        let Ok(length) = usize::from_str_radix(length, 16) else { break };
        let next = place + length.max(4);
        if next > at {
            break;
        }
        place = next;
    }
    place.min(bytes.len())
}

#[test]
fn whatever_a_server_says_is_taken_or_refused() {
    for (path, bytes) in seeds() {
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(fs::read(&path).ok(), Some(bytes), "{}: BLESS=1 writes the seeds", path.display());
    }
    let inputs =
        std::env::var("AGENT_SHIM_FUZZ_INPUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(INPUTS);
    for (target, run) in TARGETS {
        let mut files: Vec<_> =
            fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let corpus: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
        for (path, bytes) in files.iter().zip(&corpus) {
            assert!(panic::catch_unwind(|| run(bytes)).is_ok(), "{} fails", path.display());
        }
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for number in 0..inputs {
            let (one, other) = (numbers.below(corpus.len()), numbers.below(corpus.len()));
            let input = changed(&corpus[one], &corpus[other], &mut numbers);
            let passed = panic::catch_unwind(|| run(&input)).is_ok();
            assert!(passed, "{target}: input {number} fails: {}", input.escape_ascii());
        }
    }
}
