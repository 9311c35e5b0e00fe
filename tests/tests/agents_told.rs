//! docs/agents.md is held against the agents and providers there are: its tables say what the program does.

use std::{collections::BTreeMap, fs, path::Path};

use agent_shim::agents::{Catalog, ConfigFile, Definition, PromptStyle, Provider};

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/agents.md");
    fs::read_to_string(path).expect("docs/agents.md")
}

/// The rows of the table whose head begins with these words, by their first cell.
fn table(head: &str) -> BTreeMap<String, Vec<String>> {
    let document = document();
    let start = document.find(head).unwrap_or_else(|| panic!("a table that begins with {head}"));
    let rows = document[start..].lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|line| {
        let line = line.trim_matches('|').replace("\\|", "/");
        let mut cells = line.split('|').map(|cell| cell.trim().to_owned());
        (cells.next().unwrap_or_default().replace('`', ""), cells.collect())
    })
    .collect()
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn agent_row(agent: &Definition) -> Vec<String> {
    let prompt = match agent.prompt.as_ref().expect("a way to be prompted") {
        PromptStyle::AfterDashes => "behind `--`".to_owned(),
        PromptStyle::Flag(flag) => code(flag),
        other => panic!("{other:?}"),
    };
    let flag = agent.no_prompt.as_ref().and_then(|flags| flags.first()).expect("a flag");
    vec![
        code(agent.package.as_deref().unwrap_or_default()),
        code(agent.preset.as_deref().unwrap_or_default()),
        code(flag),
        prompt,
        agent.providers.iter().flatten().cloned().collect::<Vec<_>>().join(", "),
    ]
}

fn provider_row(provider: &Provider) -> Vec<String> {
    let together = |names: &[String]| names.iter().map(|name| code(name)).collect::<Vec<_>>().join(" + ");
    let keys = provider.keys.iter().flatten().map(|set| together(set.names()));
    let logins = provider.config.iter().flatten().filter(|file| file.login);
    let keys: Vec<String> = keys.chain(logins.map(|file| code(&format!("~/{}", file.path)))).collect();
    let list = |names: &[String]| names.iter().map(|name| code(name)).collect::<Vec<_>>().join(", ");
    let own = provider
        .agents
        .iter()
        .filter_map(|(name, told)| told.needs.as_ref().map(|needs| format!("for {name} {}", list(needs))));
    let needs = provider.needs.iter().map(|needs| list(needs)).chain(own).collect::<Vec<_>>().join("; ");
    vec![keys.join(" / "), needs, provider.agents.keys().cloned().collect::<Vec<_>>().join(", ")]
}

fn file(file: &ConfigFile) -> String {
    let login = if file.login { " (login)" } else { "" };
    let part = if file.only.is_empty() { "" } else { " (in part)" };
    format!("`{}`{login}{part}", file.path)
}

#[test]
fn the_tables_say_what_there_is() {
    let catalog = Catalog::builtin();
    let agents = catalog.agents.iter().map(|(name, agent)| (name.clone(), agent_row(agent)));
    assert_eq!(table("| agent | package"), agents.collect());
    let providers = catalog.providers.iter().map(|(name, provider)| (name.clone(), provider_row(provider)));
    assert_eq!(table("| provider | keys"), providers.collect());
    let files = catalog.agents.iter().map(|(name, agent)| {
        (name.clone(), vec![agent.config.iter().flatten().map(file).collect::<Vec<_>>().join(", ")])
    });
    assert_eq!(table("| agent | your files"), files.collect());
}

#[test]
fn every_field_is_explained() {
    let explained = |head: &str| table(head).into_keys().collect::<Vec<_>>().join(", ");
    let agent = explained("| field of an agent");
    for field in fields::<Definition>() {
        assert!(agent.split(", ").any(|word| word == field), "{field}: {agent}");
    }
    let provider = explained("| field of a provider");
    for field in fields::<Provider>().iter().filter(|field| *field != "agents") {
        assert!(provider.split(", ").any(|word| word == field), "{field}: {provider}");
    }
    let row = &table("| field of a provider")["agents.NAME"][0];
    for field in fields::<agent_shim::agents::ForAgent>() {
        assert!(row.contains(&format!("`{field}`")) || row.contains(&format!("`{field}.")), "{field}: {row}");
    }
}

/// The fields of a type, as the error for one that it does not have lists them.
fn fields<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let Err(error) = serde_json::from_str::<T>(r#"{ "?": 1 }"#) else { panic!("a field called ?") };
    let error = error.to_string();
    error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_example_is_a_configuration() {
    let document = document();
    let example =
        document.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let own: Catalog = toml::from_str(example).expect("valid");
    assert_eq!(own.agents.len() + own.providers.len(), 3);
}
