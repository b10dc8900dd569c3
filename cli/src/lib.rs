//! Partywall at a terminal: a client of the aggregator's query service, and the all-in-one.
//!
//! `args` says what can be typed, each command has a module of its name, `model` is what the aggregator answered,
//! `show` puts it into tables, `output` writes them.

// They panic where the reader left: the exit code would be lost. `output` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod breaches;
mod client;
mod demo;
mod evidence;
mod exit;
mod explain;
mod flows;
mod headroom;
mod host;
mod logs;
mod model;
mod output;
mod policy;
#[cfg(test)]
mod sample;
mod show;
mod signal;
mod stack;
mod table;
mod tenants;
mod text;
mod tls;
mod top;
mod trail;
mod up;
mod when;

use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use args::{Cli, Command, PolicyCommand};
use exit::{Code, Outcome};

/// The command line as clap knows it, for whoever writes reference pages or completions from it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line, does what it says, and returns how that ended.
pub fn run() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => exit::report(obey(cli)),
        // Asked for: --help, --version.
        Err(asked) if !asked.use_stderr() => exit::report(help(&asked)),
        // Nothing was asked for: what there is.
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::aside_plain(&error.render().to_string());
            ExitCode::from(Code::Usage as u8)
        }
        Err(error) => {
            output::aside(&args::one_line(&error));
            ExitCode::from(Code::Usage as u8)
        }
    }
}

fn help(asked: &clap::Error) -> Outcome {
    let text = asked.render();
    Ok(output::print(&match output::Paint::for_stdout() {
        output::Paint::Ansi => text.ansi().to_string(),
        output::Paint::Never => text.to_string(),
    })?)
}

fn obey(cli: Cli) -> Outcome {
    let Cli { common, command } = cli;
    if let Command::Completions { shell } = command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "partywall", &mut script);
        return Ok(output::print(&String::from_utf8(script)?)?);
    }
    if let Command::Policy { command } = &command {
        return match command {
            PolicyCommand::Check(args) => policy::check(&common, args),
            PolicyCommand::Suggest(args) => policy::suggest(&common, args),
            PolicyCommand::Diff(args) => policy::diff(&common, args),
        };
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        match command {
            // Done above.
            Command::Completions { .. } | Command::Policy { .. } => Ok(()),
            Command::Demo(args) => demo::run(&common, &args).await,
            Command::Up(args) => up::run(&common, args).await,
            Command::Top(args) => top::run(&common, &args).await,
            Command::Tenants(args) => tenants::run(&common, &args).await,
            Command::Flows(args) => flows::run(&common, &args).await,
            Command::Breaches(args) => breaches::run(&common, &args).await,
            Command::Explain(args) => evidence::run(&common, &args).await,
            Command::History(args) => trail::history(&common, &args).await,
            Command::Audit(args) => trail::audit(&common, &args).await,
            Command::Headroom(args) => headroom::run(&common, &args).await,
        }
    })
}
