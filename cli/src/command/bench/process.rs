//! The server's process, as the one that started it sees it.

use super::Args;
use super::server::{Opening, Report};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The model that a server's process serves.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    /// That of a file.
    File(&'a Path),
    /// The one made to measure an operation, or the same without the operation.
    Operation { name: &'a str, without: bool },
}

/// The server's process; killed if it is not finished.
pub(super) struct ServerProcess {
    child: Child,
    lines: BufReader<ChildStdout>,
    /// Where it listens, on this machine.
    pub(super) port: u16,
}

impl ServerProcess {
    /// Starts a server for so many sessions, one after another or all at once.
    pub(super) fn start(args: &Args, subject: Subject<'_>, sessions: u32, at_once: bool) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command
            .arg("bench-server")
            .args(["--sessions", &sessions.to_string(), "--max-prepared", &args.batch.to_string()])
            .args(["--threads", &args.threads.to_string()])
            .args(["--weight-memory", &args.memory.weight_memory.to_string()]);
        command.arg(args.waiting.argument());
        if at_once {
            command.arg("--at-once");
        }
        if let Some(simd) = args.simd {
            command.args(["--simd", simd.name()]);
        }
        match subject {
            Subject::File(path) => command.arg("--").arg(path),
            Subject::Operation { name, without: false } => command.args(["--operation", name]),
            Subject::Operation { name, without: true } => command.args(["--operation", name, "--without"]),
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server's process")?;
        let lines = BufReader::new(child.stdout.take().context("the server's process has no output")?);
        let mut server = Self { child, lines, port: 0 };
        server.port = server.line::<Opening>()?.port;
        Ok(server)
    }

    fn line<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.lines.read_line(&mut line).context("server's process")?;
        ensure!(!line.is_empty(), "server's process: expected its report, it ended without");
        serde_json::from_str(&line).with_context(|| format!("server's process: expected its report, got {line:?}"))
    }

    /// The report, with which the process has nothing more to do.
    pub(super) fn finish(mut self) -> Result<Report> {
        self.line()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Of a process that has ended, both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
