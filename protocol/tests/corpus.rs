//! Replays what the fuzzers begin with and what they found, through the functions that they call.

#[path = "../fuzz/targets.rs"]
mod targets;

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
mod support;

use std::{collections::BTreeMap, fs, path::PathBuf};

use agent_protocol::{
    frame::{self, Kind},
    handshake::{Features, Hello, Token, Verdict, Welcome},
};
use support::{ROOTS, Source, Writer};

/// Files of all targets together: the corpus is read by every test run and lives in the repository.
const MOST_BYTES: u64 = 200_000;

fn folder(target: &str) -> PathBuf {
    support::root().join("fuzz/corpus").join(target)
}

/// Every variant of every message, every frame kind and every form of an address: fuzzers take it from there.
fn seeds() -> BTreeMap<PathBuf, Vec<u8>> {
    let mut seeds = BTreeMap::new();
    let mut add = |target: &str, name: &str, bytes: Vec<u8>| {
        seeds.insert(folder(target).join(format!("seed-{name}")), bytes);
    };
    let hello = Hello::new(Features::DESCRIPTORS, Token([7; 32])).encode().to_vec();
    let schema = support::today();
    for (root, target) in ROOTS.into_iter().zip(["request", "client_message", "server_message"]) {
        for (variant, label) in support::choices(&schema[root]) {
            for (name, source) in [("least", Source::Least), ("most", Source::Most(0))] {
                let mut writer = Writer::new(&schema, source);
                writer.named(root, variant);
                let mut framed = hello.clone();
                frame::encode(
                    if root == "Request" { Kind::Request } else { Kind::Message },
                    &writer.out,
                    &mut framed,
                );
                if root == "Request" {
                    frame::encode_data(Kind::Stdin, 0, b"typed", &mut framed);
                    add("connection", &format!("{}-{name}", &label[1..]), framed);
                }
                add(target, &format!("{}-{name}", &label[1..]), writer.out);
            }
        }
    }
    for kind in Kind::ALL {
        let mut stream = vec![5];
        frame::encode_data(kind, 1 << 40, b"some bytes", &mut stream);
        frame::encode(Kind::Message, &[], &mut stream);
        add("frame", &format!("{kind:?}"), stream);
    }
    add("frame", "too-long", vec![0, 1, 0, 0, 0, 1, 0, 4, 0]);
    add("hello", "ours", hello);
    for verdict in [Verdict::Welcome, Verdict::Denied, Verdict::NoCommonGeneration, Verdict::Busy] {
        let welcome = Welcome { generation: 1, verdict, features: Features::DESCRIPTORS };
        add("welcome", &format!("{verdict:?}"), welcome.encode().to_vec());
    }
    for text in ["unix:/run/a b:c.sock", "vsock:3:1024", "hybrid:/tmp/a:b.sock:5000"] {
        add("address", text.split(':').next().unwrap(), text.into());
    }
    add("spec", "least", b"{}".to_vec());
    let agent = br#"{"agent": {"argv": ["/bin/sh"]}, "env": {"A": "b"}, "workdir": "/"}"#;
    add("spec", "agent", agent.to_vec());
    add("spec", "default", agent_protocol::spec::InitSpec::default().to_json().into_bytes());
    seeds
}

#[test]
fn every_file_passes() {
    for (path, bytes) in seeds() {
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(fs::read(&path).ok(), Some(bytes), "{}: BLESS=1 writes the seeds", path.display());
    }
    let mut total = 0;
    for (target, run) in targets::ALL {
        let files = fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path());
        for file in files {
            let bytes = fs::read(&file).unwrap();
            total += bytes.len() as u64;
            let passed = std::panic::catch_unwind(|| run(&bytes)).is_ok();
            assert!(passed, "{} fails", file.display());
        }
    }
    assert!(total <= MOST_BYTES, "the corpus has {total} bytes: `cargo fuzz cmin` makes it smaller");
}
