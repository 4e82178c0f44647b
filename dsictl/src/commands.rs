// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The commands, one file each.

mod audit;
mod cluster;
mod key;
mod label;
mod node;
pub mod policy;
mod ps;
mod run;
mod status;

use crate::{
    cli::{Audit, Cli, Cluster, Command, Key, Label, Node, Policy},
    failure::{Exit, Failure},
    output::Output,
};

/// Runs the command that was given; the exit code says how it went.
pub fn run(cli: Cli, output: &Output) -> Result<Exit, Failure> {
    let profile = cli.profile.as_path();
    // These end with 1 to say no, so that a failure must not.
    let answered = match &cli.command {
        Command::Policy(Policy::Can(arguments)) => policy::can(arguments, profile, output),
        Command::Policy(Policy::Test(arguments)) => policy::test(arguments, profile, output),
        Command::Policy(Policy::Diff(arguments)) => policy::diff(arguments, profile, output),
        _ => return carry_out(cli, output).map(|()| Exit::Ok),
    };
    answered.map_err(|failure| Failure::Unanswered(Box::new(failure)))
}

fn carry_out(cli: Cli, output: &Output) -> Result<(), Failure> {
    let profile = cli.profile.as_path();
    match cli.command {
        Command::Cluster(Cluster::Init(arguments)) => cluster::init(&arguments, profile, output),
        Command::Node(Node::JoinToken(arguments)) => node::join_token(&arguments, profile, output),
        Command::Node(Node::List) => node::list(profile, output),
        Command::Node(Node::SetId(arguments)) => node::set_id(&arguments, profile, output),
        Command::Node(Node::Remove(arguments)) => node::remove(&arguments, profile, output),
        Command::Key(Key::Rotate(arguments)) => key::rotate(&arguments, profile, output),
        Command::Label(Label::Set(arguments)) => label::set(&arguments, output),
        Command::Label(Label::Get(arguments)) => label::get(&arguments, output),
        Command::Label(Label::Ls(arguments)) => label::ls(&arguments, output),
        Command::Label(Label::Rm(arguments)) => label::rm(&arguments, output),
        Command::Policy(Policy::Validate(arguments)) => policy::validate(&arguments, output),
        Command::Policy(Policy::Compile(arguments)) => policy::compile(&arguments, profile, output),
        Command::Policy(Policy::Apply(arguments)) => policy::apply(&arguments, profile, output),
        Command::Policy(Policy::Show(arguments)) => policy::show(&arguments, profile, output),
        // Answered above.
        Command::Policy(Policy::Can(_) | Policy::Test(_) | Policy::Diff(_)) => Ok(()),
        Command::Policy(Policy::History) => policy::history(profile, output),
        Command::Run(arguments) => run::run(&arguments),
        Command::Audit(Audit::Tail(arguments)) => audit::tail(&arguments, profile, output),
        Command::Status(arguments) if arguments.local => status::local(output),
        Command::Status(_) => status::cluster(profile, output),
        Command::Ps(arguments) => ps::ps(&arguments, output),
    }
}
