//! Random messages, packed into batches and unpacked.

use proptest::prelude::*;

use super::*;

fn value() -> impl Strategy<Value = HeaderValue> {
    let leaf = prop_oneof![
        Just(HeaderValue::Void),
        any::<bool>().prop_map(HeaderValue::Bool),
        any::<i64>().prop_map(HeaderValue::Int),
        (-1e300..1e300).prop_map(HeaderValue::Float),
        ".{0,12}".prop_map(HeaderValue::String),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(HeaderValue::from),
        any::<u64>().prop_map(HeaderValue::Timestamp),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(HeaderValue::List),
            headers_of(inner).prop_map(HeaderValue::Table),
        ]
    })
}

fn headers_of(value: impl Strategy<Value = HeaderValue>) -> impl Strategy<Value = Headers> {
    prop::collection::vec(("h[a-z]{0,8}", value), 0..4).prop_map(Headers::from_iter)
}

fn message() -> impl Strategy<Value = Message> {
    let text = || prop::option::of("[a-z./-]{0,20}".prop_map(SmolStr::from));
    let body = prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (0..2 * MAX_BODY).prop_map(|len| vec![7; len]),
    ];
    (
        text(),
        text(),
        text(),
        prop::option::of(any::<i64>()),
        headers_of(value()),
        body,
    )
        .prop_map(
            |(correlation_id, kind, content_type, deadline, headers, body)| {
                Message::from(Content {
                    correlation_id,
                    kind,
                    content_type,
                    deadline,
                    batches: true,
                    headers,
                    body: body.into(),
                    ..Content::default()
                })
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_are_unpacked_as_they_were_packed(messages in prop::collection::vec(message(), 1..12), capacity in any::<u16>()) {
        let mut batch = Batch::new(capacity, messages.len());
        let mut sent = Vec::new();
        for message in &messages {
            if Batch::is_for(message) && !batch.is_full(message) {
                batch.push(message).expect("a batch is for it");
                sent.push(message);
            }
        }
        prop_assume!(!sent.is_empty());
        prop_assert_eq!(batch.calls(), sent.len());
        let mut batch = batch.into_message();
        batch.deadline = Some(i64::MAX);
        prop_assert!(is_batch(&batch));
        let received = requests_of(&batch).expect("it was just written");
        prop_assert_eq!(format!("{received:?}"), format!("{sent:?}"));
        let (unpacked, replies) = replies_of(&batch.body).expect("it was just written");
        prop_assert_eq!(unpacked, capacity);
        let replies: Vec<_> = replies.collect();
        prop_assert_eq!(replies.len(), sent.len());
        for (reply, sent) in replies.iter().zip(sent) {
            prop_assert_eq!(Some(reply.correlation_id), sent.correlation_id.as_deref());
            prop_assert_eq!(reply.kind, sent.kind.as_deref());
            prop_assert_eq!(reply.content_type, sent.content_type.as_deref());
            prop_assert_eq!(&reply.headers, &sent.headers);
            prop_assert_eq!(&reply.body, &sent.body);
        }
    }

    #[test]
    fn a_damaged_batch_is_unpacked_or_refused(
        messages in prop::collection::vec(message(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut batch = Batch::new(0, messages.len());
        for message in messages.iter().filter(|message| Batch::is_for(message)) {
            batch.push(message).expect("a batch is for it");
        }
        let mut body = batch.into_message().body.to_vec();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let batch = Message::from(Content { body: body.into(), ..Content::default() });
        if let Ok(requests) = requests_of(&batch) {
            prop_assert!((1..=MAX_CALLS).contains(&requests.len()));
        }
    }
}
