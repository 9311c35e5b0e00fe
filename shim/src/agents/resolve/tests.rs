use super::*;
use proptest::prelude::*;
use serde_json::json;

fn names_of(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn environment(names: &[&str]) -> Offered {
    Offered { environment: names_of(names), ..Offered::default() }
}

fn want(agent: &str) -> Wanted<'_> {
    Wanted { agent, attended: true, ..Wanted::default() }
}

fn resolved(wanted: &Wanted<'_>, offered: &Offered) -> Resolved {
    resolve(&Catalog::builtin(), wanted, offered).unwrap()
}

fn refused(wanted: &Wanted<'_>, offered: &Offered) -> AgentError {
    resolve(&Catalog::builtin(), wanted, offered).unwrap_err()
}

/// `variable < place` for each key.
fn keys(resolved: &Resolved) -> Vec<String> {
    let one = |key: &KeySource| match &key.from {
        Source::Environment(name) => format!("{} < {name}", key.variable),
        Source::Secret { file, .. } => format!("{} < {}", key.variable, file.display()),
        Source::Given(name) => format!("{} < -e {name}", key.variable),
    };
    resolved.keys.iter().map(one).collect()
}

#[test]
fn the_four_start_without_questions_and_with_what_they_are_to_do() {
    let offered = environment(&["OPENROUTER_API_KEY", "GEMINI_API_KEY"]);
    let prompt = |agent| resolved(&Wanted { prompt: Some("-x"), ..want(agent) }, &offered);
    assert_eq!(prompt("claude").argv, ["claude", "--dangerously-skip-permissions", "--", "-x"]);
    assert_eq!(prompt("gemini").argv, ["gemini", "--yolo", "--prompt-interactive=-x"]);
    assert_eq!(prompt("opencode").argv, ["opencode", "--auto", "--prompt=-x"]);
    let codex = prompt("codex").argv;
    assert_eq!(
        codex[..4],
        ["codex", "-c", "check_for_update_on_startup=false", "--dangerously-bypass-approvals-and-sandbox"]
    );
    assert_eq!(codex[codex.len() - 2..], ["--", "-x"]);
    let claude = prompt("claude");
    assert_eq!(claude.variables["IS_SANDBOX"], "1");
    assert_eq!(
        claude.settings[".claude.json"]["projects"]["/workspace"],
        json!({ "hasTrustDialogAccepted": true })
    );
}

#[test]
fn asked_for_the_agents_own_prompts_stay() {
    let gemini = resolved(&Wanted { ask: true, ..want("gemini") }, &environment(&[]));
    assert_eq!(gemini.argv, ["gemini"]);
    assert!(gemini.variables.is_empty() && gemini.settings.is_empty());
    let claude = resolved(&Wanted { ask: true, ..want("claude") }, &environment(&[]));
    assert_eq!(claude.argv, ["claude"]);
    assert!(claude.settings.is_empty() && claude.variables.contains_key("DISABLE_AUTOUPDATER"));
}

#[test]
fn further_arguments_stand_before_the_prompt() {
    let arguments = ["--model".to_owned(), "x".to_owned()];
    let wanted = Wanted { arguments: &arguments, prompt: Some("do"), ask: true, ..want("claude") };
    assert_eq!(resolved(&wanted, &environment(&[])).argv, ["claude", "--model", "x", "--", "do"]);
}

#[test]
fn without_a_provider_the_first_key_there_is_chooses_it() {
    let claude = resolved(&want("claude"), &environment(&["CLAUDE_CODE_OAUTH_TOKEN", "OPENAI_API_KEY"]));
    assert_eq!(keys(&claude), ["CLAUDE_CODE_OAUTH_TOKEN < CLAUDE_CODE_OAUTH_TOKEN"]);
    assert_eq!(claude.provider.as_deref(), Some("anthropic"));
    assert_eq!(
        claude.notes,
        ["`claude` gets CLAUDE_CODE_OAUTH_TOKEN of your environment, for the provider `anthropic`"]
    );
    let opencode = resolved(&want("opencode"), &environment(&["DEEPSEEK_API_KEY", "OPENAI_API_KEY"]));
    assert_eq!(keys(&opencode), ["OPENAI_API_KEY < OPENAI_API_KEY"]);
    // A part of a pair is nothing, and the other keys are nobody's business.
    let claude = resolved(&want("claude"), &environment(&["ANTHROPIC_AUTH_TOKEN"]));
    assert!(claude.keys.is_empty());
}

#[test]
fn a_key_that_an_agent_would_ask_about_comes_under_another_name() {
    let claude = resolved(&want("claude"), &environment(&["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"]));
    assert_eq!(
        keys(&claude),
        ["CLAUDE_API_KEY < ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL < ANTHROPIC_BASE_URL"]
    );
    assert!(
        claude.argv.contains(&r#"{"apiKeyHelper":"echo $CLAUDE_API_KEY"}"#.to_owned()),
        "{:?}",
        claude.argv
    );
    let opencode = resolved(&want("opencode"), &environment(&["ANTHROPIC_API_KEY"]));
    assert_eq!(keys(&opencode), ["ANTHROPIC_API_KEY < ANTHROPIC_API_KEY"]);
}

#[test]
fn a_provider_tells_the_agent_where_it_is() {
    let wanted = Wanted { provider: Some("openrouter"), ..want("claude") };
    let claude = resolved(&wanted, &environment(&["OPENROUTER_API_KEY", "ANTHROPIC_API_KEY"]));
    assert_eq!(keys(&claude), ["ANTHROPIC_AUTH_TOKEN < OPENROUTER_API_KEY"]);
    assert_eq!(claude.variables["ANTHROPIC_BASE_URL"], "https://openrouter.ai/api");
    assert_eq!(claude.variables["ANTHROPIC_API_KEY"], "");
    let codex = resolved(&Wanted { agent: "codex", ..wanted }, &environment(&["OPENROUTER_API_KEY"]));
    assert!(
        codex.argv.iter().any(|part| part.contains("base_url=\"https://openrouter.ai/api/v1\"")),
        "{:?}",
        codex.argv
    );
    let wanted = Wanted { provider: Some("ollama"), attended: false, ..want("claude") };
    assert_eq!(resolved(&wanted, &environment(&[])).variables["ANTHROPIC_AUTH_TOKEN"], "ollama");
}

#[test]
fn what_a_provider_needs_besides_comes_along_or_is_missed() {
    let wanted = Wanted { provider: Some("bedrock"), ..want("claude") };
    let error = refused(&wanted, &environment(&["AWS_BEARER_TOKEN_BEDROCK"]));
    assert_eq!(error.to_string(), "the provider `bedrock` needs AWS_REGION, which is not set");
    let all = ["AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_OTHER"];
    let claude = resolved(&wanted, &environment(&all));
    let names: BTreeSet<&str> = claude.keys.iter().map(|key| key.variable.as_str()).collect();
    assert_eq!(names, all[..4].iter().copied().collect());
    assert_eq!(claude.variables["CLAUDE_CODE_USE_BEDROCK"], "1");
    // A value of the person's goes before one of ours.
    let wanted = Wanted { provider: Some("vertex"), ..want("claude") };
    let mut offered = environment(&["ANTHROPIC_VERTEX_PROJECT_ID"]);
    offered.logins = names_of(&[".config/gcloud/application_default_credentials.json"]);
    assert_eq!(resolved(&wanted, &offered).variables["CLOUD_ML_REGION"], "global");
    offered.environment.insert("CLOUD_ML_REGION".to_owned());
    let claude = resolved(&wanted, &offered);
    assert!(!claude.variables.contains_key("CLOUD_ML_REGION"));
    assert!(keys(&claude).contains(&"CLOUD_ML_REGION < CLOUD_ML_REGION".to_owned()));
}

#[test]
fn the_nearest_place_of_a_key_counts() {
    let wanted = Wanted { provider: Some("openai"), ..want("codex") };
    let mut offered = environment(&["OPENAI_API_KEY"]);
    offered.secrets.insert("OPENAI_API_KEY".to_owned(), "/keys/openai".into());
    assert_eq!(keys(&resolved(&wanted, &offered)), ["OPENAI_API_KEY < /keys/openai"]);
    // What everything inside has need not be fetched.
    offered.given.insert("OPENAI_API_KEY".to_owned());
    assert!(resolved(&wanted, &offered).keys.is_empty());
    let claude =
        resolved(&want("claude"), &Offered { given: names_of(&["ANTHROPIC_API_KEY"]), ..Offered::default() });
    assert_eq!(keys(&claude), ["CLAUDE_API_KEY < -e ANTHROPIC_API_KEY"]);
    assert_eq!(claude.variables["ANTHROPIC_API_KEY"], "");
}

#[test]
fn what_the_person_sets_for_everything_stays() {
    let offered = Offered { given: names_of(&["DISABLE_AUTOUPDATER"]), ..Offered::default() };
    assert!(!resolved(&want("claude"), &offered).variables.contains_key("DISABLE_AUTOUPDATER"));
}

#[test]
fn a_login_is_used_unless_a_provider_is_chosen() {
    let mut offered = environment(&["OPENAI_API_KEY"]);
    offered.logins = names_of(&[".codex/auth.json"]);
    let codex = resolved(&Wanted { attended: false, ..want("codex") }, &offered);
    assert!(codex.keys.is_empty() && codex.provider.is_none());
    let wanted = Wanted { provider: Some("openai"), ..want("codex") };
    assert_eq!(keys(&resolved(&wanted, &offered)), ["OPENAI_API_KEY < OPENAI_API_KEY"]);
    offered.environment.clear();
    let codex = resolved(&wanted, &offered);
    assert!(codex.keys.is_empty() && !codex.argv.iter().any(|part| part.contains("model_provider")));
    // Nobody else takes that login.
    assert!(matches!(
        refused(&Wanted { provider: Some("openrouter"), ..want("codex") }, &offered),
        AgentError::NoKey { .. }
    ));
}

#[test]
fn a_missing_key_is_an_error_where_nobody_could_log_in() {
    let nothing = Offered::default();
    let error = refused(&Wanted { attended: false, ..want("gemini") }, &nothing);
    assert_eq!(
        error.to_string(),
        "the agent `gemini` has no key: GEMINI_API_KEY, or GOOGLE_GENERATIVE_AI_API_KEY is not set, and there is no login in \
         ~/.gemini/oauth_creds.json or ~/.gemini/gemini-credentials.json"
    );
    assert!(error.hint().unwrap().contains("--secret GEMINI_API_KEY=FILE"));
    let error = refused(&Wanted { provider: Some("deepseek"), ..want("claude") }, &nothing);
    assert_eq!(
        error.to_string(),
        "the agent `claude` with the provider `deepseek` has no key: DEEPSEEK_API_KEY is not set"
    );
    let left = Offered { left: names_of(&[".gemini/oauth_creds.json"]), ..Offered::default() };
    let error = refused(&Wanted { attended: false, ..want("gemini") }, &left);
    assert_eq!(
        error.hint().unwrap(),
        "there is a login in ~/.gemini/oauth_creds.json: `--agent-config copy` takes it along"
    );
    // At a terminal it is worth a note, and an agent that needs none says nothing.
    let gemini = resolved(&want("gemini"), &nothing);
    assert!(gemini.notes[0].contains("will ask for a login"), "{:?}", gemini.notes);
    assert!(resolved(&Wanted { attended: false, ..want("opencode") }, &nothing).notes.is_empty());
}

#[test]
fn a_provider_for_other_agents_is_named_as_that() {
    let error = refused(&Wanted { provider: Some("deepseek"), ..want("gemini") }, &Offered::default());
    assert_eq!(error.to_string(), "the provider `deepseek` does not serve the agent `gemini`");
    assert_eq!(
        error.hint().unwrap(),
        "`deepseek` serves claude, opencode; this agent is served by gemini, vertex"
    );
}

#[test]
fn a_prompt_is_never_one_of_the_agents_options() {
    let own: Catalog = toml::from_str(
        "[agents.last]\n[agents.flag]\nprompt = { flag = '-p' }\n[agents.whole]\nprompt = { flag = '--p=' }",
    )
    .unwrap();
    let catalog = Catalog::builtin().with(&own.agents, &own.providers);
    let option = |agent| Wanted { prompt: Some("--config=x"), ..want(agent) };
    for agent in ["last", "flag"] {
        let error = resolve(&catalog, &option(agent), &Offered::default()).unwrap_err();
        assert!(matches!(error, AgentError::PromptIsOption(_)) && error.hint().is_some(), "{error}");
    }
    let whole = resolve(&catalog, &option("whole"), &Offered::default()).unwrap();
    assert_eq!(whole.argv, ["whole", "--p=--config=x"]);
    for (name, agent) in Catalog::builtin().agents {
        let style = agent.prompt.unwrap();
        assert!(!is_option(&style, "-x"), "{name}");
    }
}

#[test]
fn an_agent_of_ones_own_needs_no_more_than_a_name() {
    let own: Catalog = toml::from_str(
        "[agents.mine]\n[agents.mute]\nprompt = 'none'\n[agents.empty]\ncommand = ['']\n\
         [agents.far]\nconfig = ['../x']\n[agents.keyed]\nkeys = ['K', ['A', 'B']]\n",
    )
    .unwrap();
    let catalog = Catalog::builtin().with(&own.agents, &own.providers);
    let prompt = |agent| Wanted { prompt: Some("do"), attended: false, ..want(agent) };
    let nothing = Offered::default();
    assert_eq!(resolve(&catalog, &prompt("mine"), &nothing).unwrap().argv, ["mine", "do"]);
    assert!(matches!(resolve(&catalog, &prompt("mute"), &nothing), Err(AgentError::NoPrompt(_))));
    assert!(matches!(resolve(&catalog, &want("empty"), &nothing), Err(AgentError::NoCommand(_))));
    assert!(matches!(resolve(&catalog, &want("far"), &nothing), Err(AgentError::Path { .. })));
    let keyed = resolve(&catalog, &want("keyed"), &environment(&["A", "B"])).unwrap();
    assert_eq!(keys(&keyed), ["A < A", "B < B"]);
    let error = resolve(&catalog, &prompt("keyed"), &environment(&["B"])).unwrap_err();
    assert_eq!(error.to_string(), "the agent `keyed` has no key: K, or A and B is not set");
}

proptest! {
    /// Whatever is there, an agent gets nothing that its provider or itself does not name, and each name once.
    #[test]
    fn only_what_is_named_is_taken(
        agent in prop_oneof!["claude", "codex", "gemini", "opencode"],
        provider in proptest::option::of(prop_oneof![
            "anthropic", "openai", "gemini", "openrouter", "deepseek", "bedrock", "vertex", "ollama"
        ]),
        mask in any::<u64>(),
        login in any::<bool>(),
        ask in any::<bool>(),
        attended in any::<bool>(),
    ) {
        let catalog = Catalog::builtin();
        let mut known: Vec<String> = catalog.providers.values().flat_map(|provider| {
            let keys = provider.keys.iter().flatten().flat_map(KeySet::names);
            keys.chain(names([&provider.also, &provider.needs])).cloned().collect::<Vec<_>>()
        }).collect();
        known.extend(["SSH_AUTH_SOCK".to_owned(), "GITHUB_TOKEN".to_owned()]);
        known.sort();
        known.dedup();
        let environment = known.iter().enumerate().filter(|(at, _)| mask >> (at % 64) & 1 == 1);
        let mut offered =
            Offered { environment: environment.map(|(_, name)| name.clone()).collect(), ..Offered::default() };
        if login {
            let files = catalog.agents[&agent].config.iter().flatten().filter(|file| file.login);
            offered.logins = files.map(|file| file.path.clone()).collect();
        }
        let wanted = Wanted { agent: &agent, provider: provider.as_deref(), ask, attended, ..Wanted::default() };
        if let Ok(resolved) = resolve(&catalog, &wanted, &offered) {
            let mut taken = BTreeSet::new();
            for key in &resolved.keys {
                let Source::Environment(name) = &key.from else { panic!("{key:?}") };
                prop_assert!(offered.environment.contains(name) && taken.insert(key.variable.clone()));
                prop_assert!(!["SSH_AUTH_SOCK", "GITHUB_TOKEN"].contains(&name.as_str()));
                prop_assert!(!resolved.variables.contains_key(&key.variable));
            }
            prop_assert!(resolved.provider.is_some() || resolved.keys.is_empty());
            prop_assert_eq!(&resolved.argv[0], &agent);
            let unfilled = format!("{resolved:?}").contains("{url}");
            prop_assert!(!unfilled);
        }
    }
}
