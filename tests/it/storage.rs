//! Where bytes go: one conformance suite on a directory and on a real S3 store, and what each of them
//! does when something is wrong.

// Also outside of the functions that clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub(crate) mod bucket;
mod conformance;
mod directory;
mod scripted;

/// One test for each promise, on a store that `$open` makes.
macro_rules! conforms {
    ($name:ident, $open:expr, $($promise:ident),+ $(,)?) => {
        mod $name {
            $(#[tokio::test]
            async fn $promise() {
                let (store, _kept) = $open.await;
                super::conformance::$promise(&store).await;
            })+
        }
    };
    ($name:ident, $open:expr) => {
        conforms!(
            $name,
            $open,
            an_object_is_read_back_as_it_was_stored,
            a_key_is_created_once,
            of_many_who_create_a_key_one_succeeds,
            bytes_that_changed_on_the_way_are_refused,
            an_upload_is_all_or_nothing,
            an_upload_creates_a_key_once,
            an_aborted_upload_is_gone,
            uploads_left_behind_are_found,
            a_listing_shows_every_key,
            no_more_is_read_than_asked_for,
            conditional_writes_are_found_to_work,
        );
    };
}

conforms!(
    conformance_of_a_directory,
    std::future::ready(super::directory::open())
);
conforms!(conformance_of_a_bucket, super::bucket::open());
