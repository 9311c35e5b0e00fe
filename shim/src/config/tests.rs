//! The promises that hold for every key: each layer can set it, later layers win as the table says, a misspelt one is named.

use std::{collections::BTreeMap, ffi::OsString, path::Path};

use clap::ValueEnum;
use proptest::prelude::*;

use super::{
    error::ConfigError,
    origin::Origin,
    read,
    schema::{self, KEYS, Key, Kind, Merge},
    settings::Settings,
    show::{self, Shown},
    testing::{project, user},
    variables,
};
use crate::{
    isolation::Accelerator,
    sandbox::record::{AgentConfig, CloneObjects, Engine, EnvKind, Isolation, Store, SyncMode, Workspace},
};

/// For each key two values, as TOML. Where the key holds things with names, the names are the same.
const VALUES: [(&str, &str, &str); 47] = [
    ("isolation", "'bwrap'", "'oci'"),
    ("env", "'host'", "'nix'"),
    ("workspace", "'bind'", "'clone'"),
    ("branch", "'a'", "'b'"),
    ("all-branches", "true", "false"),
    ("depth", "1", "2"),
    ("include-dirty", "true", "false"),
    ("clone-objects", "'copy'", "'share'"),
    ("sync", "'auto-commit'", "'auto-idle'"),
    ("sync-idle", "'10s'", "20"),
    ("network", "true", "'bridge=br0'"),
    ("nested", "true", "false"),
    ("vcpus", "1", "2"),
    ("kernel", "'/a'", "'/b'"),
    ("share", "'virtiofs'", "'9p'"),
    ("accel", "'kvm'", "'tcg'"),
    ("engine", "'podman'", "'docker'"),
    ("image", "'a'", "'b'"),
    ("store", "'whole'", "'closure'"),
    ("restart", "'always'", "'never'"),
    ("agent", "'claude'", "'codex'"),
    ("provider", "'anthropic'", "'openai'"),
    ("prompt", "'a'", "'b'"),
    ("ask", "true", "false"),
    ("agent-config", "'copy'", "'read-only'"),
    ("command", "['a']", "['b']"),
    ("mounts", "['/a:/x']", "['/b:/x:ro']"),
    ("secrets", "{ k = '/a' }", "{ k = '/b' }"),
    ("variables", "{ V = 'a' }", "{ V = 'b' }"),
    ("env-files", "['/a']", "['/b']"),
    ("nix.preset", "'claude'", "'codex'"),
    ("nix.sets", "['go']", "['rust']"),
    ("nix.packages", "['jq']", "['fd']"),
    ("nix.exact", "false", "false"),
    ("nix.nixpkgs", "'github:a/a'", "'github:b/b'"),
    ("nix.unfree", "true", "false"),
    ("limits.memory", "'1G'", "'2G'"),
    ("limits.cpus", "1", "1.5"),
    ("limits.pids", "1", "2"),
    ("snapshots.every", "'2m'", "'off'"),
    ("snapshots.ignored", "true", "false"),
    ("snapshots.keep", "10", "20"),
    ("snapshots.days", "1", "2"),
    ("steps", "[{ name = 's', command = 'a' }]", "[{ name = 's', command = 'b' }]"),
    ("services", "[{ name = 't', command = 'a' }]", "[{ name = 't', command = 'b' }]"),
    ("agents", "{ mine = { package = 'a' } }", "{ mine = { package = 'b' } }"),
    ("providers", "{ mine = { url = 'https://a' } }", "{ mine = { url = 'https://b' } }"),
];

/// What stands in a file. Dotted, so that order does not matter.
fn line(key: &str, value: &str) -> String {
    format!("{key} = {value}\n")
}

/// What stands in a variable: as a flag is written where that is enough.
fn variable(key: &Key, value: &str) -> (OsString, OsString) {
    (key.variable().into(), value.trim_matches('\'').into())
}

fn of_variables(variables: Vec<(OsString, OsString)>) -> Result<Settings, ConfigError> {
    variables::settings(variables, Path::new("/v"), None)
}

fn rows(settings: &Settings, key: &str) -> Vec<Shown> {
    show::rows(settings).into_iter().filter(|row| row.key == key && row.value.is_some()).collect()
}

#[test]
fn every_key_can_be_set_in_each_layer() {
    let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(known, VALUES.map(|(key, ..)| key), "each is tried, in the order of the table");
    for (name, value, _) in VALUES {
        let key = schema::find(name).unwrap();
        let text = line(name, value);
        let layers = [
            ("user", read::file(&user(&text))),
            ("project", read::file(&project(&text))),
            ("variable", of_variables(vec![variable(key, value)])),
        ];
        for (layer, settings) in layers {
            let settings = settings.unwrap_or_else(|error| panic!("{name} by {layer}: {error}"));
            let rows = rows(&settings, name);
            assert_eq!(rows.len(), 1, "{name} by {layer}");
            assert_eq!(rows[0].origin.layer(), layer, "{name}");
            // And nothing else is.
            let others = show::rows(&settings).into_iter().filter(|row| row.value.is_some());
            assert_eq!(others.count(), 1, "{name} by {layer}");
        }
    }
}

#[test]
fn a_later_layer_does_what_the_table_says() {
    for (name, first, second) in VALUES {
        let below = read::file(&user(&line(name, first))).unwrap();
        let above = read::file(&project(&line(name, second))).unwrap();
        let (alone, both) = (rows(&above, name), rows(&above.clone().over(below.clone()), name));
        match schema::find(name).unwrap().merge {
            Merge::Replaces | Merge::ByName if name != "variables" => assert_eq!(both, alone, "{name}"),
            // Every one is kept for what files of variables may say in between; the last one counts.
            Merge::ByName => assert_eq!(both.last(), alone.last(), "{name}"),
            Merge::Adds => assert_eq!(both, [rows(&below, name), alone].concat(), "{name}"),
            Merge::Replaces => unreachable!(),
        }
    }
}

#[test]
fn what_has_another_name_is_added() {
    for (name, first, _) in VALUES {
        if schema::find(name).unwrap().merge != Merge::ByName {
            continue;
        }
        let other = first
            .replace("/x", "/other")
            .replace("{ k", "{ other")
            .replace("{ V", "{ OTHER")
            .replace("'s'", "'other'")
            .replace("'t'", "'other'")
            .replace("{ mine", "{ other");
        let below = read::file(&user(&line(name, first))).unwrap();
        let above = read::file(&project(&line(name, &other))).unwrap();
        assert_eq!(rows(&above.over(below), name).len(), 2, "{name}");
    }
}

#[test]
fn an_agent_and_a_command_are_one_answer() {
    let layer = |text: &str| read::file(&project(text)).unwrap();
    let both = layer("command = ['a']").over(layer("agent = 'claude'"));
    assert!(both.agent.is_none() && both.command.is_some());
    let both = layer("agent = 'claude'").over(layer("command = ['a']"));
    assert!(both.agent.is_some() && both.command.is_none());
    let both = layer("agent = 'claude'\ncommand = ['--x']").over(layer("agent = 'codex'"));
    assert_eq!((both.agent.unwrap().value.as_str(), both.command.is_some()), ("claude", true));
    let error = read::file(&project("agent = 'claude'\ncommand = 'x'")).unwrap_err();
    assert!(error.message.contains(":2:11: beside `agent`"), "{error}");
}

#[test]
fn exact_packages_are_these_and_no_others() {
    let layer = |text: &str| read::file(&project(text)).unwrap();
    let below = layer("[nix]\npreset = 'codex'\nsets = ['go']\nunfree = true");
    let both = layer("[nix]\nexact = true\npackages = ['jq']").over(below.clone());
    let choice = both.nix.choice();
    assert_eq!((choice.preset, choice.sets.len(), choice.packages.len()), (None, 0, 1));
    assert_eq!(choice.unfree, Some(true));
    let both = layer("[nix]\nexact = false\npackages = ['jq']").over(below).nix.choice();
    assert_eq!((both.preset.as_deref(), both.sets.len()), (Some("codex"), 1));
}

#[test]
fn every_misspelt_key_names_the_one_that_was_meant() {
    for key in KEYS {
        let (table, name) = key.name.split_once('.').unwrap_or(("", key.name));
        // The last two letters changed places, a letter too many, one too few.
        let mut swapped: Vec<char> = name.chars().collect();
        let last = swapped.len() - 1;
        swapped.swap(last, last - 1);
        let wrong = [swapped.into_iter().collect(), format!("{name}z"), name[..name.len() - 1].to_owned()];
        // Of `agents` without its last letter, or of two letters alone, nobody can tell.
        for wrong in
            wrong.iter().filter(|wrong| wrong.len() > 2 && *wrong != name && schema::find(wrong).is_none())
        {
            let full = if table.is_empty() { wrong.clone() } else { format!("{table}.{wrong}") };
            let error = read::file(&project(&line(&full, "1"))).unwrap_err();
            assert!(error.message.contains(&format!("unknown key `{wrong}`")), "{error}");
            // `agent` and `agents` are equally near to some.
            let meant = [name, name.trim_end_matches('s')].map(|name| format!("did you mean `{name}`?"));
            assert!(error.hint.as_ref().is_some_and(|hint| meant.contains(hint)), "{full}: {error:?}");
            let variable = (format!("{}Z", key.variable()).into(), "1".into());
            let hint = of_variables(vec![variable]).unwrap_err().hint.unwrap();
            assert!(hint.contains(&format!("`{}`", key.variable())), "{hint}");
        }
    }
}

#[test]
fn choices_in_the_table_are_those_there_are() {
    fn names<T: ValueEnum>() -> Vec<String> {
        let values = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        values.map(|value| value.get_name().to_owned()).collect()
    }
    let real = BTreeMap::from([
        ("isolation", names::<Isolation>()),
        ("env", names::<EnvKind>()),
        ("workspace", names::<Workspace>()),
        ("clone-objects", names::<CloneObjects>()),
        ("sync", names::<SyncMode>()),
        ("accel", names::<Accelerator>()),
        ("engine", names::<Engine>()),
        ("store", names::<Store>()),
        ("agent-config", names::<AgentConfig>()),
    ]);
    for key in KEYS {
        let Kind::Choice(words) = key.kind else { continue };
        match real.get(key.name) {
            Some(real) => assert_eq!(words, real, "{}", key.name),
            // Words of the protocol's, which every one of them is read as below.
            None => assert!(["restart", "share"].contains(&key.name), "{}", key.name),
        }
        for word in words {
            read::file(&project(&line(key.name, &format!("'{word}'")))).unwrap();
        }
    }
}

#[test]
fn defaults_in_the_table_are_those_there_are() {
    for row in show::rows(&Settings::defaults()) {
        let key = schema::find(row.key).unwrap();
        // What nixpkgs is called would say nothing to anybody.
        if row.value.is_some() && row.key != "nix.nixpkgs" {
            assert_eq!(row.text(), key.default, "{}", row.key);
        }
    }
}

#[test]
fn a_value_of_another_kind_is_refused_where_it_stands() {
    for key in KEYS {
        let text = line(key.name, "1979-05-27");
        let error = read::file(&project(&text)).unwrap_err();
        let column = key.name.len() + 4;
        assert!(error.message.starts_with(&format!("/p/agent-shim.toml:1:{column}: expected ")), "{error}");
        assert_eq!(error.excerpt[1].trim(), "^".repeat(10));
    }
}

#[test]
fn paths_are_relative_to_the_file_and_may_begin_at_home() {
    let text = "mounts = ['a:/a', '~/b:/b', '/c:/c', '~user:/d']\nenv-files = 'e'\n[secrets]\nk = '../k'";
    let settings = read::file(&project(text)).unwrap();
    let sources: Vec<&Path> = settings.mounts.iter().map(|mount| mount.value.source.as_path()).collect();
    assert_eq!(sources, ["/p/a", "/home/me/b", "/c", "/p/~user"].map(Path::new));
    assert_eq!(settings.secrets["k"].value, Path::new("/p/../k"));
    assert!(matches!(&settings.mounts[1].origin, Origin::ProjectFile(place) if place.line == 1));
}

/// Which of the keys a layer sets, and by which of the two values.
fn some_layer() -> impl Strategy<Value = Vec<Option<bool>>> {
    proptest::collection::vec(proptest::option::of(any::<bool>()), VALUES.len())
}

fn text(layer: &[Option<bool>]) -> String {
    let said = VALUES.iter().zip(layer).filter_map(|((key, first, second), choice)| {
        choice.map(|second_one| line(key, if second_one { second } else { first }))
    });
    said.collect()
}

proptest! {
    #[test]
    fn the_last_layer_that_speaks_has_the_last_word(layers in proptest::collection::vec(some_layer(), 3)) {
        let variables = KEYS.iter().zip(&VALUES).zip(&layers[2]).filter_map(|((key, value), choice)| {
            choice.map(|second| variable(key, if second { value.2 } else { value.1 }))
        });
        let parts = [
            Settings::defaults(),
            read::file(&user(&text(&layers[0]))).unwrap(),
            read::file(&project(&text(&layers[1]))).unwrap(),
            of_variables(variables.collect()).unwrap(),
        ];
        let whole = Settings::layered(parts.clone());
        for (index, key) in KEYS.iter().enumerate() {
            // An agent and a command silence each other, as another test holds.
            if ["agent", "command"].contains(&key.name) {
                continue;
            }
            let names = ["user", "project", "variable"];
            let speaker = (0..3).rev().find(|layer| layers[*layer][index].is_some()).map(|layer| names[layer]);
            let rows = rows(&whole, key.name);
            let last = rows.last().map(|row| row.origin.layer()).filter(|layer| *layer != "default");
            prop_assert_eq!(last, speaker, "{}", key.name);
            if key.merge == Merge::Replaces {
                prop_assert!(rows.len() <= 1, "{}", key.name);
            }
        }
        // Who says nothing changes nothing.
        prop_assert_eq!(Settings::default().over(whole.clone()), whole.clone());
        prop_assert_eq!(whole.clone().over(Settings::default()), whole.clone());
        // And laying everything over itself brings nothing new but to what adds up.
        let plain = |settings: &Settings| {
            let rows = show::rows(settings).into_iter();
            rows.filter(|row| !["nix.sets", "nix.packages", "env-files", "variables"].contains(&row.key)).collect::<Vec<_>>()
        };
        prop_assert_eq!(plain(&whole.clone().over(whole.clone())), plain(&whole));
    }

    #[test]
    fn no_text_makes_reading_panic(text in "\\PC{0,200}") {
        let _ = read::file(&project(&text));
        let _ = of_variables(KEYS.iter().map(|key| variable(key, &text)).collect());
    }

    #[test]
    fn no_mangled_file_makes_reading_panic(layer in some_layer(), cut in any::<prop::sample::Index>(), put in "\\PC{0,3}") {
        let mut text = text(&layer);
        let at = cut.index(text.len() + 1);
        text.insert_str(at, &put);
        if let Err(error) = read::file(&project(&text)) {
            prop_assert!(error.message.starts_with("/p/agent-shim.toml:"), "{}", error);
            prop_assert_eq!(error.excerpt.len(), 2);
        }
    }
}
