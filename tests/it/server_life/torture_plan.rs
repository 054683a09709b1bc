//! The torture's plan of faults: a seed tells all of it, and a short run has something of everything.

#[path = "../../torture/plan.rs"]
mod plan;

use plan::{GRACE, Plan, ServerFault, THRESHOLD, WORKERS, WorkerFault};

const SHORT: u64 = 25;

#[test]
fn the_same_seed_gives_the_same_plan_and_another_one_another() {
    assert_eq!(Plan::new(7, SHORT), Plan::new(7, SHORT));
    assert_ne!(Plan::new(7, SHORT), Plan::new(8, SHORT));
}

#[test]
fn every_short_run_has_each_way_to_lose_the_memory() {
    for seed in 0..200 {
        let plan = Plan::new(seed, SHORT);
        let has = |kind: fn(&ServerFault) -> bool| plan.servers.iter().any(|(_, fault)| kind(fault));
        assert!(has(|fault| matches!(fault, ServerFault::StopFast { .. })), "seed {seed}");
        assert!(has(|fault| matches!(fault, ServerFault::StopImmediate { .. })), "seed {seed}");
        assert!(has(|fault| *fault == ServerFault::KillBackend), "seed {seed}");
        assert!(has(|fault| *fault == ServerFault::Promote), "seed {seed}");
    }
}

#[test]
fn some_processes_come_back_within_the_grace_and_some_after_the_threshold() {
    let rests: Vec<u64> = (0..200)
        .flat_map(|seed| Plan::new(seed, SHORT).workers)
        .filter_map(|(_, _, fault)| match fault {
            WorkerFault::Kill { rest } => Some(rest),
            _ => None,
        })
        .collect();
    assert!(rests.iter().any(|rest| *rest < GRACE) && rests.iter().any(|rest| *rest > THRESHOLD));
}

#[test]
fn pauses_are_longer_than_the_threshold_and_no_worker_has_two_faults_at_once() {
    for seed in 0..200 {
        let mut busy_until = [0; WORKERS];
        for (at, worker, fault) in Plan::new(seed, SHORT).workers {
            assert!(busy_until[worker] <= at, "seed {seed}: {fault:?} at {at}");
            let length = match fault {
                WorkerFault::Pause { length } => {
                    assert!(length > THRESHOLD, "seed {seed}: a pause of {length} ms");
                    length
                }
                WorkerFault::Kill { rest } | WorkerFault::Leave { rest } => rest,
                WorkerFault::LockJobs { length } | WorkerFault::LockRow { length } => length,
                WorkerFault::Replace { length, beside } => length + beside,
            };
            busy_until[worker] = at + length;
        }
    }
}
