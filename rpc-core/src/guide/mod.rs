#![doc = include_str!("links.md")]
#![doc = include_str!("README.md")]

/// Declares a module for each page.
///
/// A link between pages, such as `[delivery]`, has two definitions: a file in the page itself, for readers on a forge, and a
/// module in `links.md`, for rustdoc. Of several definitions the first counts, so `links.md` is included first. Names of doctests therefore begin with `links.md` and count its lines.
macro_rules! pages {
    ($($page:ident)*) => {$(
        pub mod $page {
            #![doc = include_str!("links.md")]
            #![doc = include_str!(concat!(stringify!($page), ".md"))]
        }
    )*};
}

pages! {
    services
    errors
    deadlines
    streams
    delivery
    middleware
    observability
    operating
    testing
    evolution
    credentials
    cluster
    tuning
    questions
}
