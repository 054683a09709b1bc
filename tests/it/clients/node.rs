//! The client for Node.

super::about!(super::program::Client::Node);

use super::program::{Client, Program};
use serde_json::json;

/// As without the memory for it.
#[test]
fn a_thread_that_cannot_begin_holds_nobody_up() {
    let no_thread =
        "import{isMainThread}from'node:worker_threads';if(!isMainThread)throw(Error('no_thread'))";
    let mut command =
        Client::Node.command("postgresql:///nowhere", json!({"at_exit": true, "deadline": 1000}));
    command.env("NODE_OPTIONS", format!("--import=data:text/javascript,{}", no_thread.replace(' ', "%20")));
    let mut program = Program::start(command);
    assert!(program.end().success());
}
