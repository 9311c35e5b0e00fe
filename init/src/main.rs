//! `agent-init`, PID 1 of a sandbox.
fn main() {
    agent_init::harden::forbid_inspection().unwrap();
    let args: Vec<String> = std::env::args().collect();
    let source = match args[1].as_str() { "--spec" => agent_init::boot::Source::File(args[2].clone().into()), _ => agent_init::boot::Source::Descriptor(args[2].parse().unwrap()) };
    match agent_init::boot::run(&source) { Ok(code) => std::process::exit(code.into()), Err(e) => { eprintln!("agent-init: {e:#}"); std::process::exit(1) } }
}
