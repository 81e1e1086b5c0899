//! Every load, small, and that each notices what it is there to notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::tiny::{Fault, Tiny};
use crate::codec::Method;
use crate::load::fanout::{self, FanoutPlan};
use crate::load::idle::{self, IdlePlan};
use crate::load::publish::{self, PublishPlan};
use crate::load::reconnect::{self, ReconnectPlan};
use crate::process::Watched;
use crate::subject::{self, Speech, Subject, Tokens};

fn tokens() -> Tokens {
    Tokens::Given("T".to_owned())
}

fn this_process() -> Vec<Watched> {
    vec![Watched::process("test", std::process::id())]
}

fn subject(tiny: &Tiny, method: Method) -> Subject {
    let url = format!("ws://{}/connection/websocket", tiny.addr);
    subject::running(&url, tokens(), method, this_process()).unwrap()
}

fn publish_plan(pressure: publish::Pressure) -> PublishPlan {
    PublishPlan {
        connections: 8,
        rooms: 4,
        pressure,
        size: 300,
        duration: Duration::from_secs(1),
        warm_up: Duration::from_millis(30),
    }
}

#[test]
fn publishes_are_counted_by_either_method_and_pressure() {
    let tiny = Tiny::start(Fault::None);
    for (method, pressure) in [
        (Method::Publish, publish::Pressure::InFlight(1)),
        (Method::Rpc, publish::Pressure::InFlight(16)),
        (Method::Publish, publish::Pressure::PerSecond(1000.0)),
    ] {
        let figures = publish::run(&subject(&tiny, method), &publish_plan(pressure)).unwrap();
        assert!(figures.acked > 10, "{figures}");
        assert_eq!(figures.unanswered, 0, "{figures}");
        assert!(figures.failed.is_empty(), "{figures}");
        assert!(figures.latency.p50_us > 0.0);
        assert_eq!(figures.cpu.len(), 1);
    }
}

#[test]
fn refused_publishes_are_told_apart_from_acknowledged_ones() {
    let tiny = Tiny::start(Fault::Refuses);
    let plan = publish_plan(publish::Pressure::InFlight(4));
    let figures = publish::run(&subject(&tiny, Method::Publish), &plan).unwrap();
    assert_eq!(figures.acked, 0);
    assert!(figures.failed["1001 storage full"] > 0);
}

#[test]
fn nobody_there_is_an_error() {
    let addr = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let subject = subject::running(&format!("ws://{addr}/"), tokens(), Method::Publish, vec![]);
    let plan = publish_plan(publish::Pressure::InFlight(1));
    let error = publish::run(&subject.unwrap(), &plan).unwrap_err();
    assert!(format!("{error:#}").contains("refused"), "{error:#}");
}

fn fanout_plan(pressure: fanout::Pressure) -> FanoutPlan {
    FanoutPlan {
        subscribers: 20,
        pressure,
        size: 200,
        duration: Duration::from_millis(200),
        warm_up: Duration::from_millis(50),
    }
}

#[test]
fn fan_out_reaches_everybody() {
    let tiny = Tiny::start(Fault::None);
    for pressure in [
        fanout::Pressure::InFlight(4),
        fanout::Pressure::DeliveriesPerSecond(2000.0),
    ] {
        let figures =
            fanout::run(&subject(&tiny, Method::Publish), &fanout_plan(pressure)).unwrap();
        assert!(figures.delivered > 100, "{figures}");
        assert_eq!(
            (figures.lost, figures.late, figures.closed),
            (0, 0, 0),
            "{figures}"
        );
        assert!(figures.to_last.p50_us >= figures.latency.p50_us);
    }
}

#[test]
fn lost_deliveries_are_noticed() {
    let tiny = Tiny::start(Fault::Loses);
    let pressure = fanout::Pressure::DeliveriesPerSecond(2000.0);
    let figures = fanout::run(&subject(&tiny, Method::Publish), &fanout_plan(pressure)).unwrap();
    assert!(
        figures.lost >= 20 && figures.lost.is_multiple_of(20),
        "{figures}"
    );
}

#[test]
fn the_floor_of_fan_out_serves_the_same_load() {
    let listener = crate::floor::epoll::listen().unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| crate::floor::epoll::serve(&listener, &stop, None));
        let target = subject::floor_target(addr);
        let subject = Subject::new("floor", target, Speech::Echo, this_process(), Vec::new());
        let figures = fanout::run(&subject, &fanout_plan(fanout::Pressure::InFlight(8)));
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap().unwrap();
        let figures = figures.unwrap();
        assert!(figures.delivered > 100, "{figures}");
        assert_eq!((figures.lost, figures.closed), (0, 0), "{figures}");
        assert!(figures.per_read > 1.0, "it coalesces: {figures}");
    });
}

#[test]
fn the_floor_of_durable_publishes_acknowledges_all() {
    let dir = tempfile::tempdir().unwrap();
    let log = crate::floor::append::AppendFile::create(&dir.path().join("log")).unwrap();
    let listener = crate::floor::epoll::listen().unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| crate::floor::epoll::serve(&listener, &stop, Some(log)));
        let target = subject::floor_target(addr);
        let speech = Speech::EchoAcknowledged;
        let subject = Subject::new("floor", target, speech, this_process(), Vec::new());
        let figures = publish::run(&subject, &publish_plan(publish::Pressure::InFlight(8)));
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap().unwrap();
        let figures = figures.unwrap();
        assert!(figures.acked > 10, "{figures}");
        assert_eq!((figures.unanswered, figures.closed), (0, 0), "{figures}");
        assert!(figures.failed.is_empty(), "{figures}");
    });
}

#[test]
fn idle_connections_are_weighed() {
    let tiny = Tiny::start(Fault::None);
    let plan = IdlePlan {
        connections: 50,
        rooms: 5,
        settle: Duration::from_millis(50),
    };
    let figures = idle::run(&subject(&tiny, Method::Publish), &plan).unwrap();
    assert_eq!(figures.closed, 0);
    assert!(figures.memory[0].after > 0);
    let url = format!("ws://{}/", tiny.addr);
    let unknown = subject::running(&url, tokens(), Method::Publish, vec![]).unwrap();
    assert!(
        idle::run(&unknown, &plan)
            .unwrap_err()
            .to_string()
            .contains("--server-pid")
    );
}

fn reconnect_plan() -> ReconnectPlan {
    ReconnectPlan {
        clients: 40,
        rooms: 4,
        each: 2,
        missed: 3,
        storm_rate: 50.0,
        size: 100,
    }
}

#[test]
fn a_storm_without_faults_loses_nothing() {
    let tiny = Tiny::start(Fault::None);
    let figures = reconnect::run(&subject(&tiny, Method::Publish), &reconnect_plan()).unwrap();
    assert_eq!(figures.back, 40, "{figures}");
    assert_eq!(
        (figures.lost, figures.doubled, figures.unrecovered),
        (0, 0, 0),
        "{figures}"
    );
    assert!(figures.acked >= 4 * 5);
}

#[test]
fn a_recovery_that_doubles_is_noticed() {
    let tiny = Tiny::start(Fault::Doubles);
    let figures = reconnect::run(&subject(&tiny, Method::Publish), &reconnect_plan()).unwrap();
    assert!(figures.doubled >= 40, "{figures}");
}
