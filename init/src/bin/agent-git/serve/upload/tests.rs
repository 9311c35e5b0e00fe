//! Clients that say anything, and repositories that are anything.

use std::{fs, os::unix::fs::symlink};

use proptest::prelude::*;

use crate::serve::{
    Service, Version,
    testing::{Small, packets},
    trouble::Trouble,
};

fn text(heard: &[u8]) -> String {
    String::from_utf8_lossy(heard).into_owned()
}

fn list(small: &Small) -> (String, Result<(), Trouble>) {
    let said = packets(&["command=ls-refs\n", "0001", "peel\n", "symrefs\n", "0000"]);
    let (heard, served) = small.hear(Service::Upload, Version::Two, &said);
    (text(&heard), served)
}

/// What stands behind a word at the beginning of a packet.
fn fetch(small: &Small, lines: &[&str]) -> (Vec<u8>, Result<(), Trouble>) {
    let said = [&["command=fetch\n", "0001"], lines, &["0000"]].concat();
    small.hear(Service::Upload, Version::Two, &packets(&said))
}

#[test]
fn refs_are_listed_with_what_they_lead_to() {
    let small = Small::new();
    let (heard, served) = list(&small);
    served.unwrap();
    let main = small.commits[2];
    assert!(heard.contains("version 2\n") && heard.contains("object-format=sha1\n"), "{heard}");
    assert!(heard.contains(&format!("{main} HEAD symref-target:refs/heads/main\n")), "{heard}");
    assert!(heard.contains(&format!(" refs/tags/v1 peeled:{main}\n")), "{heard}");
}

#[test]
fn a_client_says_what_it_has_until_that_is_enough() {
    let small = Small::new();
    let [old, _, new] = small.commits[..] else { panic!("three commits") };
    let (want, have) = (format!("want {new}\n"), format!("have {old}\n"));
    let unknown = format!("have {}\n", "12".repeat(20));
    let (heard, served) = fetch(&small, &[&want, &unknown]);
    served.unwrap();
    assert!(text(&heard).ends_with("0014acknowledgments\n0008NAK\n0000"), "{}", text(&heard));
    let (heard, served) = fetch(&small, &[&want, &have]);
    served.unwrap();
    let ready = format!("0014acknowledgments\n0031ACK {old}\n000aready\n0001000dpackfile\n");
    assert!(text(&heard).contains(&ready), "{}", text(&heard));
    let (heard, served) = fetch(&small, &[&want, &have, "wait-for-done\n"]);
    served.unwrap();
    assert!(text(&heard).ends_with(&format!("ACK {old}\n0000")), "{}", text(&heard));
}

#[test]
fn what_is_not_there_is_refused_in_a_packet() {
    let small = Small::new();
    let (heard, served) = fetch(&small, &[&format!("want {}\n", "12".repeat(20)), "done\n"]);
    assert!(matches!(served, Err(Trouble::Said(_))));
    assert!(text(&heard).contains("ERR upload-pack: not our ref 1212"), "{}", text(&heard));
    let (heard, _) = fetch(&small, &["filter blob:none\n"]);
    assert!(text(&heard).contains("ERR unexpected line: 'filter blob:none'"), "{}", text(&heard));
}

#[test]
fn a_history_can_be_cut_short() {
    let small = Small::new();
    let new = small.commits[2];
    let (heard, served) = fetch(&small, &[&format!("want {new}\n"), "deepen 1\n", "done\n"]);
    served.unwrap();
    assert!(text(&heard).contains(&format!("0011shallow-info\n0035shallow {new}")), "{}", text(&heard));
}

#[test]
fn repositories_that_are_traps_end_in_words() {
    // Pipes that nobody writes to, a file without an end, and files that are not what they should be.
    let traps = [
        ("config", ""),
        ("packed-refs", ""),
        ("objects/info/alternates", ""),
        ("shallow", ""),
        ("objects/pack/pack-1.idx", ""),
        ("packed-refs", "/dev/zero"),
        ("packed-refs", "packed-refs"),
        ("objects/pack/pack-1.idx", "../../config"),
        ("config", "/proc/self/stat"),
    ];
    for (file, link) in traps {
        let small = Small::new();
        let path = small.folder.path().join(".git").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        if link.is_empty() {
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        } else {
            symlink(link, &path).unwrap();
        }
        let (heard, served) = list(&small);
        // What is no configuration says nothing.
        let is_harmless = link == "/proc/self/stat";
        assert!(
            served.is_ok() == is_harmless && heard.contains("ERR ") != is_harmless,
            "{file} {link}: {heard}"
        );
    }
}

#[test]
fn objects_that_are_traps_end_in_words() {
    let small = Small::new();
    let new = small.commits[2].to_string();
    let path = small.folder.path().join(".git/objects").join(&new[..2]).join(&new[2..]);
    let ask = || fetch(&small, &[&format!("want {new}\n"), "done\n"]);
    let (heard, served) = ask();
    assert!(served.is_ok() && text(&heard).contains("packfile"));
    let good = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    for bad in [&b""[..], b"x", &good[..good.len() / 2]] {
        fs::write(&path, bad).unwrap();
        let (heard, served) = ask();
        assert!(served.is_err(), "{bad:?}");
        assert!(
            text(&heard).contains("ERR cannot read object") || text(&heard).contains("fatal: "),
            "{}",
            text(&heard)
        );
        fs::remove_file(&path).unwrap();
    }
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (heard, served) = ask();
    assert!(served.is_err() && text(&heard).contains("not an ordinary file"), "{}", text(&heard));
}

/// Words of the protocol, in any order.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("0000".to_owned()),
        Just("0001".to_owned()),
        Just("command=fetch\n".to_owned()),
        Just("command=ls-refs\n".to_owned()),
        Just("done\n".to_owned()),
        Just("thin-pack\n".to_owned()),
        Just("wait-for-done\n".to_owned()),
        Just("include-tag\n".to_owned()),
        "(want|have|shallow) [0-2]\n",
        "deepen(-relative|-since|-not|) ?[0-9]{0,11}\n",
        "ref-prefix [a-z/]{0,8}\n",
        "[ -~]{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_a_client_says_it_is_answered_or_left(
        lines in prop::collection::vec(line(), 0..16),
        version in 0..3_usize,
        noise in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        let small = Small::new();
        let mut said = Vec::new();
        for line in &lines {
            // A digit stands for one of the commits.
            let line = match line.strip_suffix('\n').and_then(|line| line.split_once(' ')) {
                Some((word @ ("want" | "have" | "shallow"), digit)) => {
                    format!("{word} {}\n", small.commits[digit.parse::<usize>().unwrap()])
                }
                _ => line.clone(),
            };
            said.extend(packets(&[&line]));
        }
        said.extend(noise);
        let version = [Version::Zero, Version::One, Version::Two][version];
        let _ = small.hear(Service::Upload, version, &said);
    }
}
