//! Steps and services: as people write them, and as init is told.

use agent_protocol::spec::{
    Backoff, FastFail, Health, InitSpec, Readiness, ReadyCommand, Restart, Service, Step, Stop,
};
use toml::de::{DeTable, DeValue};

use super::{
    document::Document,
    error::ConfigError,
    origin::Sourced,
    read::{Value, entries},
    schema::{
        BACKOFF_KEYS, FAST_FAIL_KEYS, HEALTH_KEYS, READINESS_KEYS, RESTART_KEYS, SERVICE_KEYS, STEP_KEYS,
        STOP_KEYS, UnitKey,
    },
};

/// Finds what init would refuse, and where it was written.
pub(super) fn check(steps: &[Sourced<Step>], services: &[Sourced<Service>]) -> Result<(), ConfigError> {
    let Some(problem) = problem(steps, services) else { return Ok(()) };
    let unit = |list: &str| {
        let index = problem.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?.0;
        index.parse::<usize>().ok()
    };
    let origin = unit("steps")
        .and_then(|index| steps.get(index))
        .map(|step| &step.origin)
        .or_else(|| unit("services").and_then(|index| services.get(index)).map(|service| &service.origin));
    Err(ConfigError::written(match origin {
        Some(origin) => format!("{origin}: {}", in_words(&problem)),
        None => in_words(&problem),
    }))
}

/// The first thing that init would refuse.
fn problem(steps: &[Sourced<Step>], services: &[Sourced<Service>]) -> Option<String> {
    let spec = InitSpec {
        steps: steps.iter().map(|step| step.value.clone()).collect(),
        services: services.iter().map(|service| service.value.clone()).collect(),
        ..InitSpec::default()
    };
    spec.validate().err()?.first().map(ToString::to_string)
}

/// Init speaks of its own document, where times are counted in milliseconds.
fn in_words(problem: &str) -> String {
    let problem = match problem.split_once("].") {
        Some((_, rest)) => rest,
        None => problem,
    };
    problem.replace("_ms", "").replace('_', "-").replace("argv", "command")
}

fn names(keys: &[UnitKey]) -> Vec<&'static str> {
    keys.iter().map(|(name, ..)| *name).collect()
}

impl Document<'_> {
    pub(super) fn steps(&self, value: &Value<'_>) -> Result<Vec<Sourced<Step>>, ConfigError> {
        let mut steps: Vec<Sourced<Step>> = Vec::new();
        for (at, table) in self.tables(value)? {
            let step = self.step(at, table)?;
            self.is_new(at, &step.name, steps.iter().map(|other| &other.value.name))?;
            let sourced = Sourced::new(step, self.origin(&at.span()));
            self.is_sound(at, problem(std::slice::from_ref(&sourced), &[]))?;
            steps.push(sourced);
        }
        Ok(steps)
    }

    pub(super) fn services(&self, value: &Value<'_>) -> Result<Vec<Sourced<Service>>, ConfigError> {
        let mut services: Vec<Sourced<Service>> = Vec::new();
        for (at, table) in self.tables(value)? {
            let service = self.service(at, table)?;
            self.is_new(at, &service.name, services.iter().map(|other| &other.value.name))?;
            // Those it comes after can be in another file.
            let alone = Service { after: Vec::new(), ..service.clone() };
            self.is_sound(at, problem(&[], &[Sourced::new(alone, self.origin(&at.span()))]))?;
            services.push(Sourced::new(service, self.origin(&at.span())));
        }
        Ok(services)
    }

    fn step(&self, at: &Value<'_>, table: &DeTable<'_>) -> Result<Step, ConfigError> {
        let mut step = Step::default();
        for (name, value) in entries(table) {
            match name.get_ref().as_ref() {
                "name" => step.name = self.text(value)?,
                "command" => step.argv = self.command(value)?,
                "variables" => step.env = self.variable_map(value)?,
                "workdir" => step.workdir = Some(self.text(value)?),
                "timeout" => step.timeout_ms = self.time(value)?,
                _ => return Err(self.unknown(name, &names(STEP_KEYS))),
            }
        }
        self.is_whole(at, "step", &step.name, &step.argv)?;
        Ok(step)
    }

    fn service(&self, at: &Value<'_>, table: &DeTable<'_>) -> Result<Service, ConfigError> {
        let mut service = Service::default();
        for (name, value) in entries(table) {
            match name.get_ref().as_ref() {
                "name" => service.name = self.text(value)?,
                "command" => service.argv = self.command(value)?,
                "variables" => service.env = self.variable_map(value)?,
                "workdir" => service.workdir = Some(self.text(value)?),
                "after" => service.after = self.list(value)?.into_iter().map(|(name, _)| name).collect(),
                "restart" => service.restart = self.restart(value)?,
                "readiness" => service.readiness = self.readiness(value)?,
                "ready-timeout" => service.ready_timeout_ms = self.time(value)?,
                "health" => service.health = Some(self.health(value)?),
                "watchdog" => service.watchdog_ms = self.time(value)?,
                "stop" => service.stop = self.stop(value)?,
                _ => return Err(self.unknown(name, &names(SERVICE_KEYS))),
            }
        }
        self.is_whole(at, "service", &service.name, &service.argv)?;
        Ok(service)
    }

    fn restart(&self, value: &Value<'_>) -> Result<Restart, ConfigError> {
        let mut restart = Restart::default();
        if let DeValue::String(_) = value.get_ref() {
            restart.policy = self.restart_policy(value)?;
            return Ok(restart);
        }
        for (name, value) in entries(self.table(value)?) {
            match name.get_ref().as_ref() {
                "policy" => restart.policy = self.restart_policy(value)?,
                "backoff" => restart.backoff = self.backoff(value)?,
                "stable" => restart.stable_ms = self.time(value)?,
                "fast-fail" => restart.fast_fail = self.fast_fail(value)?,
                _ => return Err(self.unknown(name, &names(RESTART_KEYS))),
            }
        }
        Ok(restart)
    }

    fn backoff(&self, value: &Value<'_>) -> Result<Backoff, ConfigError> {
        let mut backoff = Backoff::default();
        for (name, value) in entries(self.table(value)?) {
            match name.get_ref().as_ref() {
                "initial" => backoff.initial_ms = self.time(value)?,
                "max" => backoff.max_ms = self.time(value)?,
                "factor" => backoff.factor = self.number(value)?,
                "jitter-percent" => backoff.jitter_percent = self.number(value)?,
                _ => return Err(self.unknown(name, BACKOFF_KEYS)),
            }
        }
        Ok(backoff)
    }

    fn fast_fail(&self, value: &Value<'_>) -> Result<FastFail, ConfigError> {
        let mut fast_fail = FastFail::default();
        for (name, value) in entries(self.table(value)?) {
            match name.get_ref().as_ref() {
                "count" => fast_fail.count = self.number(value)?,
                "within" => fast_fail.within_ms = self.time(value)?,
                _ => return Err(self.unknown(name, FAST_FAIL_KEYS)),
            }
        }
        Ok(fast_fail)
    }

    fn readiness(&self, value: &Value<'_>) -> Result<Readiness, ConfigError> {
        if let DeValue::String(_) = value.get_ref() {
            let known = [
                ("none", Readiness::None),
                ("first-output", Readiness::FirstOutput),
                ("notify", Readiness::Notify),
            ];
            return self.one_of(value, &known);
        }
        let mut command = ReadyCommand::default();
        let (mut delay, mut asks) = (None, false);
        for (name, value) in entries(self.table(value)?) {
            asks |= name.get_ref() != "delay";
            match name.get_ref().as_ref() {
                "delay" => delay = Some(self.time(value)?),
                "command" => command.argv = self.command(value)?,
                "interval" => command.interval_ms = self.time(value)?,
                "timeout" => command.timeout_ms = self.time(value)?,
                _ => return Err(self.unknown(name, &names(READINESS_KEYS))),
            }
        }
        match (delay, asks) {
            (Some(delay), false) => Ok(Readiness::DelayMs(delay)),
            (None, true) if !command.argv.is_empty() => Ok(Readiness::Command(command)),
            _ => Err(self.wrong(&value.span(), "it needs either `delay` or `command`")),
        }
    }

    fn health(&self, value: &Value<'_>) -> Result<Health, ConfigError> {
        let mut health = Health::default();
        for (name, value) in entries(self.table(value)?) {
            match name.get_ref().as_ref() {
                "command" => health.argv = self.command(value)?,
                "interval" => health.interval_ms = self.time(value)?,
                "timeout" => health.timeout_ms = self.time(value)?,
                "retries" => health.retries = self.number(value)?,
                "start-delay" => health.start_delay_ms = self.time(value)?,
                _ => return Err(self.unknown(name, &names(HEALTH_KEYS))),
            }
        }
        if health.argv.is_empty() {
            return Err(self.wrong(&value.span(), "it has no `command`"));
        }
        Ok(health)
    }

    fn stop(&self, value: &Value<'_>) -> Result<Stop, ConfigError> {
        let mut stop = Stop::default();
        for (name, value) in entries(self.table(value)?) {
            match name.get_ref().as_ref() {
                "signal" => {
                    let signal = self.text(value)?.parse();
                    stop.signal = signal.map_err(|error| self.wrong(&value.span(), format!("{error}")))?;
                }
                "hangup" => stop.hangup = Some(self.boolean(value)?),
                "grace" => stop.grace_ms = self.time(value)?,
                _ => return Err(self.unknown(name, &names(STOP_KEYS))),
            }
        }
        Ok(stop)
    }

    fn is_whole(&self, at: &Value<'_>, what: &str, name: &str, argv: &[String]) -> Result<(), ConfigError> {
        for (key, is_missing) in [("name", name.is_empty()), ("command", argv.is_empty())] {
            if is_missing {
                return Err(self.wrong(&at.span(), format!("this {what} has no `{key}`")));
            }
        }
        Ok(())
    }

    fn is_new<'n>(
        &self,
        at: &Value<'_>,
        name: &str,
        mut others: impl Iterator<Item = &'n String>,
    ) -> Result<(), ConfigError> {
        if others.any(|other| other == name) {
            return Err(self.wrong(&at.span(), format!("`{name}` is there twice")));
        }
        Ok(())
    }

    fn is_sound(&self, at: &Value<'_>, problem: Option<String>) -> Result<(), ConfigError> {
        problem.map_or(Ok(()), |problem| Err(self.wrong(&at.span(), in_words(&problem))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{origin::Origin, read, settings::Settings, testing::project};
    use agent_protocol::spec::{RestartPolicy, Signal};

    fn read(text: &str) -> Result<Settings, ConfigError> {
        read::file(&project(text))
    }

    fn error(text: &str) -> String {
        read(text).unwrap_err().message
    }

    #[test]
    fn all_that_init_can_do_can_be_asked_for() {
        let text = r#"
            [[steps]]
            name = "install"
            command = "npm ci"
            timeout = "10m"
            variables = { CI = "1" }
            workdir = "/workspace/web"

            [[services]]
            name = "db"
            command = ["postgres", "-D", "/tmp/db"]

            [[services]]
            name = "web"
            command = ["web"]
            after = ["db"]
            restart = { policy = "always", backoff = { initial = "1s", max = 60, factor = 3, jitter-percent = 0 }, stable = "1m", fast-fail = { count = 0, within = "5s" } }
            readiness = { command = "curl -f localhost", interval = "1s", timeout = "2s" }
            ready-timeout = 0
            health = { command = ["true"], interval = "10s", timeout = "1s", retries = 2, start-delay = "3s" }
            watchdog = "30s"
            stop = { signal = "INT", hangup = true, grace = "500ms" }
        "#;
        let settings = read(text).unwrap();
        check(&settings.steps, &settings.services).unwrap();
        let step = &settings.steps[0].value;
        assert_eq!((step.argv.join(" ").as_str(), step.timeout_ms), ("/bin/sh -c npm ci", 600_000));
        assert_eq!((step.env["CI"].as_str(), step.workdir.as_deref()), ("1", Some("/workspace/web")));
        assert!(matches!(&settings.steps[0].origin, Origin::ProjectFile(place) if place.line == 2));
        let expected = Service {
            name: "web".to_owned(),
            argv: vec!["web".to_owned()],
            after: vec!["db".to_owned()],
            restart: Restart {
                policy: RestartPolicy::Always,
                backoff: Backoff { initial_ms: 1000, max_ms: 60_000, factor: 3, jitter_percent: 0 },
                stable_ms: 60_000,
                fast_fail: FastFail { count: 0, within_ms: 5000 },
            },
            readiness: Readiness::Command(ReadyCommand {
                argv: ["/bin/sh", "-c", "curl -f localhost"].map(str::to_owned).into(),
                interval_ms: 1000,
                timeout_ms: 2000,
            }),
            ready_timeout_ms: 0,
            health: Some(Health {
                argv: vec!["true".to_owned()],
                interval_ms: 10_000,
                timeout_ms: 1000,
                retries: 2,
                start_delay_ms: 3000,
            }),
            watchdog_ms: 30_000,
            stop: Stop { signal: "INT".parse::<Signal>().unwrap(), hangup: Some(true), grace_ms: 500 },
            ..Service::default()
        };
        assert_eq!(settings.services[1].value, expected);
    }

    #[test]
    fn short_forms() {
        let service = |rest: &str| {
            let text = format!("[[services]]\nname = \"a\"\ncommand = \"a\"\n{rest}");
            read(&text).unwrap().services.remove(0).value
        };
        assert_eq!(service("restart = \"never\"").restart.policy, RestartPolicy::Never);
        assert_eq!(service("readiness = \"notify\"").readiness, Readiness::Notify);
        assert_eq!(service("readiness = { delay = \"2s\" }").readiness, Readiness::DelayMs(2000));
        assert_eq!(service("").readiness, Readiness::None);
    }

    #[test]
    fn what_init_would_refuse_is_found_where_it_stands() {
        let unit = |rest: &str| error(&format!("[[steps]]\nname = \"a\"\ncommand = \"a\"\n{rest}"));
        assert!(unit("workdir = \"web\"").contains(":1:1: workdir: is not an absolute path"));
        assert!(unit("timeout = \"2months\"").contains("timeout: is "), "{}", unit("timeout = \"2months\""));
        assert!(unit("timout = \"2s\"").contains(":4:1: unknown key `timout`"));
        assert!(unit("timeout = \"soon\"").contains(":4:11: "));
        assert!(error("[[steps]]\nname = \"a\"").contains("this step has no `command`"));
        assert!(error("[[steps]]\ncommand = \"a\"").contains("this step has no `name`"));
        assert!(error("[[steps]]\nname = \"agent\"\ncommand = \"a\"").contains("is the agent's own"));
        let twice = "[[steps]]\nname = \"a\"\ncommand = \"a\"\n";
        assert!(error(&twice.repeat(2)).contains(":4:1: `a` is there twice"));
        assert!(error("steps = 1").contains("expected tables in double brackets"));
        assert!(error("[[services]]\nname=\"a\"\ncommand=\"a\"\nreadiness={}").contains("either `delay`"));
    }

    #[test]
    fn services_of_all_layers_are_looked_at_together() {
        let settings = read("[[services]]\nname = \"a\"\ncommand = \"a\"\nafter = [\"b\"]").unwrap();
        let error = check(&settings.steps, &settings.services).unwrap_err();
        assert_eq!(error.message, "/p/agent-shim.toml:1: after: `b` is not a service");
    }
}
