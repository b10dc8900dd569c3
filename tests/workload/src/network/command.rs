//! `ip` and `nft`, fed on standard input.

use std::{
    io::{self, ErrorKind, Write},
    process::{Child, Command, Stdio},
};

use crate::Error;

/// A program and the package that has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    name: &'static str,
    package: &'static str,
}

pub(super) const IP: Program = Program {
    name: "ip",
    package: "iproute2",
};
pub(super) const NFT: Program = Program {
    name: "nft",
    package: "nftables",
};

/// Runs it in the calling thread's network namespace and gives what it wrote.
pub(super) fn run(program: Program, args: &[&str], input: &str) -> Result<String, Error> {
    let Program { name, package } = program;
    let failed = |source: io::Error| Error::CannotRun {
        name,
        package,
        source,
    };
    let mut child = start(name, args).map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may end at a bad line without reading on; then its own words say more.
        let _broken_pipe = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Refused {
        name,
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        input: input.trim().to_owned(),
    })
}

/// Its package, where it is not there. That of another maker, such as busybox's `ip`, is not it.
pub(super) fn lacks(program: Program) -> Option<&'static str> {
    let said = start(program.name, &["-V"]).and_then(Child::wait_with_output);
    (!said.is_ok_and(|output| output.status.success())).then_some(program.package)
}

/// From PATH, or from where administrators' programs are when PATH is a user's.
fn start(name: &str, args: &[&str]) -> io::Result<Child> {
    let mut last = ErrorKind::NotFound.into();
    for path in ["", "/usr/sbin/", "/sbin/"] {
        let started = Command::new(format!("{path}{name}"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match started {
            Err(error) if error.kind() == ErrorKind::NotFound => last = error,
            other => return other,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let absent = Program {
            name: "no-such-program",
            package: "iproute2",
        };
        let error = run(absent, &[], "").unwrap_err().to_string();
        assert!(
            error.contains("no-such-program") && error.contains("package iproute2"),
            "{error}"
        );
    }

    #[test]
    fn a_refusal_is_told_in_the_programs_own_words() {
        let cat = Program {
            name: "cat",
            package: "coreutils",
        };
        let error = run(cat, &["/no/such/file"], "the input").unwrap_err().to_string();
        assert!(
            error.contains("/no/such/file") && error.contains("the input"),
            "{error}"
        );
    }
}
