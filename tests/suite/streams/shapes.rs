//! The four shapes, in both formats.

use futures_util::{StreamExt, stream};
use rpc_core::{CallError, ClientBuilder, ErrorKind};

use super::{FeedClient, FeedDispatcher, FeedError, Probe, Setup, all, next};

async fn setups() -> Vec<Setup> {
    let json = Setup::with(|server| server, ClientBuilder::json).await;
    vec![Setup::new().await, json]
}

#[tokio::test]
async fn a_stream_of_items_arrives_whole_and_in_order() {
    for setup in setups().await {
        for to in [0, 1, 2, 1_000, 10_000] {
            let items = setup.feed.count(to).await.unwrap();
            let (read, error) = all(items).await;
            assert!(error.is_none(), "{error:?}");
            assert_eq!(read, Vec::from_iter(0..to));
        }
    }
}

#[tokio::test]
async fn the_services_own_error_ends_a_stream() {
    for setup in setups().await {
        for n in [0, 5, 2_000] {
            let (read, error) = all(setup.feed.fail_at(n).await.unwrap()).await;
            assert_eq!(read, Vec::from_iter(0..n));
            match error {
                Some(CallError::App(error)) => assert_eq!(error, FeedError::Broken { at: n }),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_service_may_refuse_a_stream_before_the_first_item() {
    for setup in setups().await {
        let refused = setup.feed.open("letters".to_owned()).await;
        let expected = FeedError::Refused {
            name: "letters".to_owned(),
        };
        assert!(matches!(refused, Err(CallError::App(error)) if error == expected));
        let items = setup.feed.open("numbers".to_owned()).await.unwrap();
        assert_eq!(all(items).await.0, [0, 1, 2]);

        let refused = setup.feed.open_and_fail("letters".to_owned(), 2).await;
        assert!(matches!(refused, Err(CallError::App(error)) if error == expected));
        let items = setup.feed.open_and_fail("numbers".to_owned(), 2).await;
        let (read, error) = all(items.unwrap()).await;
        assert_eq!(read, [0, 1]);
        assert!(matches!(error, Some(CallError::App(error)) if error == "broken"));
    }
}

#[tokio::test]
async fn a_callers_stream_arrives_whole_and_gets_an_answer() {
    for setup in setups().await {
        for n in [0, 1, 5_000] {
            let numbers = stream::iter((0..n).filter(|number| *number != 13));
            let sum = setup.feed.sum(numbers).await.unwrap();
            let expected: u64 = (0..n).filter(|number| *number != 13).sum();
            assert_eq!(sum, expected);
        }
    }
}

#[tokio::test]
async fn an_answer_may_come_while_the_caller_still_sends() {
    for setup in setups().await {
        let endless = || stream::iter(0..);
        assert_eq!(setup.feed.take(3, endless()).await.unwrap(), [0, 1, 2]);
        assert!(
            setup
                .feed
                .take(0, stream::pending())
                .await
                .unwrap()
                .is_empty()
        );
        let error = setup.feed.sum(endless()).await.unwrap_err();
        assert!(matches!(
            error,
            CallError::App(FeedError::Broken { at: 13 })
        ));
    }
}

#[tokio::test]
async fn both_sides_stream_at_once() {
    for setup in setups().await {
        let (say, said) = tokio::sync::mpsc::unbounded_channel::<String>();
        let said = stream::unfold(said, async |mut said| Some((said.recv().await?, said)));
        let mut heard = setup.feed.echo(said).await.unwrap();
        for text in ["one", "two", "three"] {
            say.send(text.to_owned()).unwrap();
            assert_eq!(next(&mut heard).await.unwrap().unwrap(), text);
        }
        drop(say);
        assert!(next(&mut heard).await.is_none());

        let refused = setup.feed.echo_or_refuse(true, stream::pending()).await;
        assert!(matches!(refused, Err(CallError::App(_))));
        let said = stream::iter(["a".to_owned()]);
        let heard = setup.feed.echo_or_refuse(false, said).await.unwrap();
        assert_eq!(all(heard).await.0, ["a"]);
    }
}

#[tokio::test]
async fn the_direct_form_has_all_shapes() {
    let feed = FeedClient::new(FeedDispatcher::new(Probe::default()));
    assert_eq!(all(feed.count(3).await.unwrap()).await.0, [0, 1, 2]);
    let (read, error) = all(feed.fail_at(2).await.unwrap()).await;
    assert_eq!(read, [0, 1]);
    assert!(matches!(error, Some(CallError::App(_))));
    assert!(matches!(
        feed.open(String::new()).await,
        Err(CallError::App(_))
    ));
    assert_eq!(feed.sum(stream::iter(0..4)).await.unwrap(), 6);
    assert_eq!(feed.take(2, stream::iter(0..)).await.unwrap(), [0, 1]);
    let said = stream::iter(["a", "b"]).map(str::to_owned);
    assert_eq!(all(feed.echo(said).await.unwrap()).await.0, ["a", "b"]);
    let (read, error) = all(feed.panic_at(2).await.unwrap()).await;
    assert_eq!(read, [0, 1]);
    assert_eq!(error.unwrap().kind(), ErrorKind::Panicked);
}

#[tokio::test]
async fn streams_are_values_of_their_own() {
    fn is_free<T: Send + Unpin + 'static>(_: &T) {}
    let setup = Setup::new().await;
    let items = setup.feed.count(3).await.unwrap();
    is_free(&items);
    // Without the inherent `next`, as a stream of the futures crates.
    let numbers: Vec<_> = items.map(Result::unwrap).collect().await;
    assert_eq!(numbers, [0, 1, 2]);
    let other = tokio::spawn(async move { all(setup.feed.count(3).await.unwrap()).await.0 });
    assert_eq!(other.await.unwrap(), [0, 1, 2]);
}
