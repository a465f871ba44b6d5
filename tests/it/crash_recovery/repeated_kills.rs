//! Several windows at a time, and an operator that is killed repeatedly: each restart finds the leftovers of all
//! earlier crashes. The crash points vary between runs because the days overlap.

use anyhow::{Context as _, Result};
use eventexport::simulator::Settings;
use jiff::ToSpan as _;
use jiff::civil::{Date, date};

use super::fixture::{CrashFixture, ManifestParams, TIMEOUT};
use crate::faults::{
    FaultInjector, FaultPlan, FaultProxy, InjectedFault, ProxiedPeer, RequestMatcher, wait_injected,
};

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
    let mut settings = Settings {
        today: Some(date(2018, 6, 19)),
        ..Settings::default()
    };
    settings.gzip.level = 0;
    settings.volume.days.insert(date(2018, 6, 5), 10_000);
    let fixture = CrashFixture::start("again", settings).await?;
    let injector = FaultInjector::new();
    let store = FaultProxy::store(fixture.gateway, &injector).await?;
    let source = fixture.simulator.url().to_string();
    let params = ManifestParams {
        start: "2018-06-04",
        end: "2018-06-15",
        parallelism: 3,
        source: source.trim_end_matches('/'),
        store: &store.endpoint(),
    };
    fixture.apply(&params).await?;
    for (nth, fault) in KILLS {
        let killed = injector.arm(FaultPlan {
            matcher: RequestMatcher::Peers(vec![ProxiedPeer::Store]),
            nth,
            fault,
        });
        injector.set_target(&fixture.operator()?);
        let killed = wait_injected(TIMEOUT, killed)
            .await
            .with_context(|| format!("complete before request {nth}: {}", fixture.log()))?;
        println!("killed {killed}");
    }
    let _operator = fixture.operator()?;
    fixture.wait_complete().await?;
    let days: Vec<Date> = date(2018, 6, 4).series(1.day()).take(12).collect();
    fixture.check_archive(&days).await
}
