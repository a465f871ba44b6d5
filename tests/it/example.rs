//! The example of CONTRIBUTING.md.
use crate::testkit::prelude::*;

#[tokio::test]
async fn a_day_whose_receipt_got_no_reply_is_stored_once() -> Result<()> {
    let env = Environment::builder("example").versioned().start().await?;
    let receipt = RequestMatcher::LineContains(ProxiedPeer::Store, vec!["PUT ", "2018-06-05.receipt.json"]);
    let lost = env.rules.arm(Rule::new(receipt, Action::LoseReply));
    env.apply(&env.proxied_export("june")).await?;
    let _operator = env.operator().start().await?;
    env.wait_complete("june").await?;
    wait_injected(Duration::ZERO, lost).await?;
    env.check_archive("2018-06-03", "2018-06-07").await
}
