//! What holds for every queue.

use super::yard::*;
use crate::cluster::*;
use std::fs;

/// For a library whose idle workers are woken.
pub fn a_killed_worker_s_job_is_done_by_another_in_time(library: Library) {
    killed(library, AGAIN_WITHIN);
}

/// For a library whose idle workers look for jobs once a second, and cannot be woken.
pub fn a_killed_worker_s_job_is_done_by_another_at_its_next_look(library: Library) {
    killed(library, AGAIN_WITHIN + 1.0);
}

fn killed(library: Library, limit: f64) {
    let server = server();
    let mut yard = Yard::new(&server, library, "killed");
    in_time(&mut yard, limit);
}

/// The documents' second time: the extension's settings as they are installed, and attached workers.
pub fn with_the_default_settings_a_lost_session_is_enough(library: Library) {
    let server = default_server();
    let mut yard = Yard::new(&server, library, "lost");
    in_time(&mut yard, LOST_WITHIN);
}

/// A worker is killed in the middle of a job, and another one does the job in time. On a machine that has too much else
/// to do it may take longer, so there are three attempts.
fn in_time(yard: &mut Yard<'_>, limit: f64) {
    let mut seconds = Vec::new();
    while seconds.iter().all(|taken| *taken > limit) {
        assert!(seconds.len() < 3, "after {seconds:?} seconds");
        let job = format!("job {}", seconds.len());
        let victim = yard.worker_at(&job);
        let _other = yard.idle_worker();
        seconds.push(yard.time_to_next_run(&job, victim));
        yard.await_ends(&job, 1);
        yard.await_done(&job);
    }
    assert_eq!(yard.settled(), format!("0 failed, {} requeued", seconds.len()));
}

pub fn a_worker_that_comes_back_changes_nothing_twice(library: Library) {
    let server = server();
    let mut yard = Yard::new(&server, library, "returned");
    let frozen = yard.worker_at("job");
    let _other = yard.idle_worker();
    frozen.signal("STOP");
    yard.await_ends("job", 1);
    yard.await_done("job");
    yard.release("job");
    frozen.signal("CONT");
    yard.await_ends("job", 2);
    stays(WHILE, "the job is done, and done with", || {
        yard.runs("job") == 2
            && yard.status("job") == library.done
            && yard.settled() == "0 failed, 1 requeued"
    });
}

/// An earlier worker that is dead is no reason to take a job from the one that has it.
pub fn a_job_outlives_each_of_its_workers(library: Library) {
    let server = server();
    let mut yard = Yard::new(&server, library, "outlived");
    let first = yard.worker_at("long");
    first.kill();
    let second = yard.worker();
    yard.await_run("long", 2);
    stays(WHILE, "the second one has the job", || yard.runs("long") == 2);
    second.kill();
    let _third = yard.worker();
    yard.await_run("long", 3);
    yard.release("long");
    yard.await_done("long");
    assert_eq!(yard.settled(), "0 failed, 2 requeued");
}

pub fn the_page_shows_what_its_workers_do(library: Library) {
    let server = server();
    let yard = Yard::unwatched(&server, library, "page");
    let program = fs::read_to_string(yard.source()).expect("the program is there");
    let blocks = [yard.page("python"), yard.page("js"), yard.page("rust")].concat();
    assert!(!blocks.is_empty(), "the page has no program");
    for line in blocks.iter().flat_map(|block| block.lines()) {
        assert!(program.contains(line.trim()), "no line of the program: {line}");
    }
}
