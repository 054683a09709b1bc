//! What holds for every queue.

use super::yard::*;
use crate::cluster::*;
use std::fs;

pub fn a_killed_worker_s_job_is_done_by_another_in_time(library: Library) {
    let server = server();
    let mut yard = Yard::new(&server, library, "killed");
    let victim = yard.worker_at("job");
    let _other = yard.idle_worker();
    let seconds = yard.time_to_next_run("job", victim);
    assert!(seconds <= AGAIN_WITHIN, "after {seconds} s");
    yard.await_ends("job", 1);
    yard.await_status("job", library.done);
    assert_eq!(yard.ledger(), "1 death, 0 failed, 1 requeued");
}

pub fn a_worker_that_comes_back_changes_nothing_twice(library: Library) {
    let server = server();
    let mut yard = Yard::new(&server, library, "returned");
    let frozen = yard.worker_at("job");
    let _other = yard.idle_worker();
    frozen.signal("STOP");
    yard.await_ends("job", 1);
    yard.await_status("job", library.done);
    yard.release("job");
    frozen.signal("CONT");
    yard.await_ends("job", 2);
    stays(WHILE, "the job is done, and done with", || {
        yard.runs("job") == 2
            && yard.status("job") == library.done
            && yard.ledger() == "1 death, 0 failed, 1 requeued"
    });
}

pub fn the_page_shows_what_its_workers_do(library: Library) {
    let server = server();
    let yard = Yard::unwatched(&server, library, "page");
    let program = fs::read_to_string(yard.source()).expect("the program is there");
    for language in ["python", "js"] {
        for line in yard.page(language).iter().flat_map(|block| block.lines()) {
            assert!(program.contains(line.trim()), "no line of the program: {line}");
        }
    }
}
