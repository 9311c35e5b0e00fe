//! Every behaviour of the product on every layer: runs the programs that `tests/conformance.toml` names, prints the matrix,
//! and keeps it in `target/conformance.txt` and `.json`.
//!
//! `cargo test -p agent-tests --test conformance -- [--layer NAME]... [--again] [PART OF A TEST'S NAME]...`
//!
//! `--again` runs only what was not well the last time. AGENT_TESTS_LAYERS (names with commas) and AGENT_TESTS_AGAIN do the
//! same from outside.

use std::{
    collections::VecDeque,
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Mutex, atomic::AtomicUsize, atomic::Ordering},
    thread,
    time::Instant,
};

use agent_tests::{
    LAYERS, Layer,
    conformance::{Came, Cell, Matrix, Plan, Ran, Test, judge, programs, run},
};
use anyhow::{Context, bail, ensure};

/// What the command line and the environment ask for.
#[derive(Default)]
struct Options {
    layers: Vec<&'static Layer>,
    again: bool,
    names: Vec<String>,
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    // What test runners ask of a program before they run it.
    if words.iter().any(|word| word == "--list") {
        if !words.iter().any(|word| word == "--ignored") {
            println!("conformance: test");
        }
        return ExitCode::SUCCESS;
    }
    match options(words).and_then(|options| conform(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(words: Vec<String>) -> anyhow::Result<Options> {
    let mut options = Options { again: env::var_os("AGENT_TESTS_AGAIN").is_some(), ..Options::default() };
    let mut layers: Vec<String> = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--layer" => layers.push(words.next().context("--layer needs a name")?),
            "--again" => options.again = true,
            // Libtest's, which `cargo test` hands to all programs alike.
            "--test-threads" | "--format" | "--color" | "--skip" => drop(words.next()),
            flag if flag.starts_with('-') => {}
            // Our own name, from a runner that calls tests one by one.
            "conformance" => {}
            _ => options.names.push(word),
        }
    }
    if layers.is_empty() {
        layers.extend(env::var("AGENT_TESTS_LAYERS").ok());
    }
    for name in layers.iter().flat_map(|names| names.split(',')) {
        options.layers.push(Layer::named(name).with_context(|| format!("no layer is called `{name}`"))?);
    }
    if options.layers.is_empty() {
        options.layers.extend(&LAYERS);
    }
    Ok(options)
}

/// Runs what was asked for, and says whether all is well.
fn conform(options: &Options) -> anyhow::Result<bool> {
    for layer in &options.layers {
        let missing = layer.missing();
        ensure!(
            missing.is_empty(),
            "no {} for the layer {}: `.ci/setup --tests` installs it, AGENT_TESTS_LAYERS names the layers to do without",
            missing.join(", "),
            layer.name
        );
    }
    let plan = Plan::load()?;
    let all = programs::find(&plan.programs())?;
    let names: Vec<String> = all.iter().map(|test| test.name.clone()).collect();
    let mut faults = plan.without_effect(&names);
    faults.extend(
        names
            .iter()
            .filter(|name| plan.group_of(name).is_none())
            .map(|name| format!("{name} is in no group")),
    );

    let wanted =
        |name: &String| options.names.is_empty() || options.names.iter().any(|part| name.contains(part));
    let names: Vec<String> = names.into_iter().filter(wanted).collect();
    let columns: Vec<&str> = options.layers.iter().map(|layer| layer.name).collect();
    let mut matrix = Matrix::of(&plan, &columns, &names);
    let folder = target()?;
    // Without results, nothing was well.
    let before = if options.again { Matrix::read(&folder).unwrap_or_default() } else { Matrix::default() };
    for layer in &options.layers {
        let mut todo = Vec::new();
        for test in all.iter().filter(|test| names.contains(&test.name)) {
            match (before.get(layer.name, &test.name), plan.left_out(layer.name, &test.name)) {
                (Some(cell), _) if cell.is_well() => matrix.put(layer.name, &test.name, cell.clone(), 0.0),
                // Who asks for a test by its name gets it.
                (_, Some(reason)) if options.names.is_empty() => {
                    matrix.put(layer.name, &test.name, Cell::LeftOut { reason: reason.to_owned() }, 0.0);
                }
                _ => todo.push(test),
            }
        }
        for (test, ran) in on_layer(&plan, layer, &todo)? {
            let seconds = ran.seconds;
            matrix.put(layer.name, &test.name, judge(&plan, layer.name, &test.name, ran), seconds);
        }
        // Kept from now on, whatever becomes of the next layer.
        if options.names.is_empty() {
            matrix.write(&folder)?;
        }
    }
    for (test, printed) in matrix.failures() {
        println!("\n---- {test} ----\n{printed}");
    }
    println!("{}", matrix.to_text());
    for fault in &faults {
        println!("fault in tests/conformance.toml: {fault}");
    }
    Ok(matrix.is_well() && faults.is_empty())
}

/// Runs tests on a layer, as many at once as it bears, and those that failed once more, one by one.
fn on_layer<'a>(plan: &Plan, layer: &Layer, tests: &[&'a Test]) -> anyhow::Result<Vec<(&'a Test, Ran)>> {
    let begun = Instant::now();
    let at_once = thread::available_parallelism()?.get() * layer.tests_per_processor;
    println!("\n{} tests on {}, {at_once} at once", tests.len(), layer.name);
    let (waiting, number) = (Mutex::new(tests.iter().copied().collect::<VecDeque<_>>()), AtomicUsize::new(0));
    let one = |test: &Test| {
        let count = number.fetch_add(1, Ordering::Relaxed) + 1;
        let ran = run::run(test, layer, count)?;
        let word = match ran.came {
            Came::Passed => "ok",
            Came::Failed => "FAILED",
            Came::Ignored => "ignored",
        };
        println!("{} {count}/{}: {} ... {word} ({:.1} s)", layer.name, tests.len(), test.name, ran.seconds);
        if ran.came == Came::Failed && plan.waiver(layer.name, &test.name).is_none() {
            println!("{}", ran.printed);
        }
        anyhow::Ok(ran)
    };
    let worker = || {
        let mut results = Vec::new();
        loop {
            let next = waiting.lock().expect("no worker panics").pop_front();
            match next {
                Some(test) => results.push((test, one(test)?)),
                None => return anyhow::Ok(results),
            }
        }
    };
    let mut results = Vec::new();
    thread::scope(|scope| -> anyhow::Result<()> {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            let Ok(done) = worker.join() else { bail!("a worker panicked") };
            results.extend(done?);
        }
        Ok(())
    })?;
    // A machine that others use can starve real processes past a deadline: one more try, alone, tells that from a defect.
    for (test, ran) in &mut results {
        if ran.came == Came::Failed && plan.waiver(layer.name, &test.name).is_none() {
            println!("{}: once more, alone: {}", layer.name, test.name);
            *ran = Ran { again: true, ..one(test)? };
        }
    }
    println!("{}: {} s", layer.name, begun.elapsed().as_secs());
    Ok(results)
}

/// Cargo's folder, where CI looks for the result.
fn target() -> anyhow::Result<PathBuf> {
    let test = env::current_exe()?;
    test.ancestors().nth(4).map(Path::to_owned).context("a target folder")
}
