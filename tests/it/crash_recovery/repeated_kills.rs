//! Several windows at a time, and an operator that is killed repeatedly: each restart finds the leftovers of all
//! earlier crashes. The crash points vary between runs because the days overlap.

use anyhow::{Context as _, Result};
use jiff::ToSpan as _;
use jiff::civil::{Date, date};

use super::{check_archive, environment, june, operator};
use crate::faults::InjectedFault;
use crate::operator::TIMEOUT;
use crate::testkit::proxy::{ProxiedPeer, RequestMatcher, wait_injected};
use crate::testkit::service::service_on;

/// Number of store requests after which each process dies, and whether before or after the store acted.
const KILLS: [(usize, InjectedFault); 6] = [
    (9, InjectedFault::KillAfter),
    (23, InjectedFault::KillBefore),
    (31, InjectedFault::KillAfter),
    (38, InjectedFault::KillBefore),
    (46, InjectedFault::KillAfter),
    (52, InjectedFault::KillBefore),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_repeatedly_completes() -> Result<()> {
    let mut settings = service_on(date(2018, 6, 19));
    settings.gzip.level = 0;
    settings.volume.days.insert(date(2018, 6, 5), 10_000);
    let fixture = environment("again", settings).await?;
    let june = june(&fixture, "2018-06-04", "2018-06-15", 3)
        .set("destination.s3.endpoint", fixture.store.endpoint());
    fixture.apply(&june).await?;
    for (nth, fault) in KILLS {
        let requests = RequestMatcher::Peers(vec![ProxiedPeer::Store]);
        let killed = fixture.rules.arm(fault.rule(requests, nth));
        fixture.rules.set_target(&operator(&fixture)?);
        let killed = wait_injected(TIMEOUT, killed)
            .await
            .with_context(|| format!("complete before request {nth}: {}", fixture.log()))?;
        println!("killed {killed}");
    }
    let _operator = operator(&fixture)?;
    fixture.wait_complete("june").await?;
    let days: Vec<Date> = date(2018, 6, 4).series(1.day()).take(12).collect();
    check_archive(&fixture, &days).await
}
