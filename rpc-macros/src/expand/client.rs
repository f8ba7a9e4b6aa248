//! The client: what callers hold.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::Generics;

use crate::attributes;
use crate::expand::{exchange, messages, parameters};
use crate::model::{Method, Service};

/// The struct.
pub(super) fn item(service: &Service) -> TokenStream {
    let Service {
        visibility,
        client,
        krate,
        ..
    } = service;
    let attributes = attributes::for_twin(&service.attributes);
    let docs = docs(service);
    let parameter = &service.service_parameter;
    let declared = service.generics.params.iter();
    let clause = parameters::of_trait(service).where_clause;
    let inner = Inner::of(service);
    let (fields, inner_item) = (inner.fields(), inner.item());
    quote! {
        #docs
        #(#attributes)*
        #[allow(dead_code)]
        #visibility struct #client<#(#declared,)* #parameter = #krate::Client> #clause {
            #fields
        }

        #inner_item
    }
}

fn docs(service: &Service) -> TokenStream {
    let first = format!(
        " The client of the service [`{}`]: every method of the trait, called through `{}`.",
        service.ident, service.service_parameter
    );
    let gap = attributes::is_documented(&service.attributes).then(|| quote!(#[doc = ""]));
    quote!(#[doc = #first] #gap)
}

/// Everything the client can do.
pub(super) fn impls(service: &Service) -> TokenStream {
    let constructors = constructors(service);
    let methods = methods(service);
    let common = common_traits(service);
    quote!(#constructors #methods #common)
}

fn constructors(service: &Service) -> TokenStream {
    let Service {
        visibility,
        client,
        dispatcher,
        queue,
        ..
    } = service;
    let generics = parameters::with(service, &service.service_parameter);
    let (introduced, arguments, clause) = generics.split_for_impl();
    let parameter = &service.service_parameter;
    let definition = messages::service_ident();
    let inner = Inner::of(service);
    let fresh = inner.construct(&quote!(__rpc::__private::Stub::new(service, #definition)));
    let stub = inner.stub();
    let moved = inner.construct(&quote!(__rpc::__private::Stub::with_queue(#stub, queue)));
    let prefixed =
        inner.construct(&quote!(__rpc::__private::Stub::with_queue_prefix(#stub, prefix)));
    let new_docs = format!(
        " Calls the service through `service`: `connection.client()`, the same with tower layers around it, or a \
         [`{dispatcher}`] to call a handler in this process without any broker."
    );
    let queue_docs = format!(
        " Sends the requests to this queue instead of `{queue}`.{}",
        messages::about_own_queues(service)
    );
    quote! {
        impl #introduced #client #arguments #clause {
            #[doc = #new_docs]
            #[must_use]
            #visibility fn new(service: #parameter) -> Self
            where
                #parameter: __rpc::RpcService,
            {
                #fresh
            }

            #[doc = #queue_docs]
            #[must_use]
            #visibility fn with_queue(self, queue: impl ::core::convert::Into<__rpc::__private::String>) -> Self {
                #moved
            }

            /// Puts this before the name of every queue that requests are sent to. The dispatcher has to have the same.
            #[must_use]
            #visibility fn with_queue_prefix(self, prefix: impl ::core::convert::Into<__rpc::__private::String>) -> Self {
                #prefixed
            }
        }
    }
}

fn methods(service: &Service) -> TokenStream {
    let Service { client, .. } = service;
    let parameter = &service.service_parameter;
    let generics = parameters::with(service, parameter);
    let (introduced, arguments, _) = generics.split_for_impl();
    let clause = parameters::bounded(&generics, &quote!(#parameter: __rpc::RpcService));
    let (news, others): (Vec<_>, Vec<_>) =
        service.methods.iter().partition(|method| is_new(method));
    let others = others.into_iter().map(|written| method(service, written));
    let inner = Inner::of(service).ident.map(|inner| {
        let news = news.into_iter().map(|written| method(service, written));
        quote!(impl #introduced #inner #arguments #clause { #(#news)* })
    });
    quote! {
        impl #introduced #client #arguments #clause {
            #(#others)*
        }
        #inner
    }
}

fn method(service: &Service, method: &Method) -> TokenStream {
    let Service { visibility, .. } = service;
    let Method { ident, .. } = method;
    let attributes = attributes::for_twin(&method.attributes);
    let docs = (!attributes::is_documented(&method.attributes)).then(|| {
        let text = format!(" Calls `{}`.", method.name);
        quote!(#[doc = #text])
    });
    let parameters = method.sent().map(|argument| {
        let (ident, ty) = (argument.ident(), &argument.ty);
        quote!(#ident: #ty)
    });
    let awaited = exchange::awaited(method);
    let parameter = &service.service_parameter;
    let definition = messages::method_ident(method);
    let message = messages::arguments_value(service, method);
    let exchange = exchange::exchange_type(service, method);
    quote! {
        #docs
        #(#attributes)*
        #visibility fn #ident(&self, #(#parameters),*) -> __rpc::Call<#awaited, #parameter> {
            #exchange::call(&self.stub, #definition, #message)
        }
    }
}

fn common_traits(service: &Service) -> TokenStream {
    let client = &service.client;
    let parameter = &service.service_parameter;
    let generics = parameters::with(service, parameter);
    let (introduced, arguments, clause) = generics.split_for_impl();
    let clone_clause = parameters::bounded(&generics, &quote!(#parameter: ::core::clone::Clone));
    let inner = Inner::of(service);
    let stub = inner.stub();
    let cloned = inner.construct(&quote!(::core::clone::Clone::clone(&#stub)));
    let deref = inner.deref(&generics, client);
    quote! {
        impl #introduced ::core::clone::Clone for #client #arguments #clone_clause {
            fn clone(&self) -> Self {
                #cloned
            }
        }

        impl #introduced ::core::fmt::Debug for #client #arguments #clause {
            fn fmt(&self, formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Debug::fmt(&#stub, formatter)
            }
        }

        #deref
    }
}

fn is_new(method: &Method) -> bool {
    method.ident == "new"
}

/// What a client struct contains.
///
/// A service may have a method `new`, and an inherent method of that name would be a second definition beside the
/// constructor. So then, and only then, the stub is inside a hidden struct that has the method, and the client derefs to
/// it: `FibClient::new(…)` finds the constructor, and `client.new(…)` passes it over, because it takes no `self`.
struct Inner<'a> {
    service: &'a Service,
    /// The hidden struct, if there is one.
    ident: Option<Ident>,
}

impl<'a> Inner<'a> {
    fn of(service: &'a Service) -> Self {
        let ident = service
            .methods
            .iter()
            .any(is_new)
            .then(|| format_ident!("__{}New", service.client));
        Self { service, ident }
    }

    fn fields(&self) -> TokenStream {
        match &self.ident {
            None => self.innermost_fields(),
            Some(ident) => {
                let generics = parameters::with(self.service, &self.service.service_parameter);
                let (_, arguments, _) = generics.split_for_impl();
                quote!(inner: #ident #arguments)
            }
        }
    }

    fn innermost_fields(&self) -> TokenStream {
        let Service {
            krate,
            service_parameter: parameter,
            ..
        } = self.service;
        let marker = parameters::is_generic(self.service).then(|| {
            let ty = parameters::marker_type(self.service);
            quote!(marker: #ty)
        });
        quote!(stub: #krate::__private::Stub<#parameter>, #marker)
    }

    /// The hidden struct. It is as visible as the client, which names it in public.
    fn item(&self) -> Option<TokenStream> {
        let ident = self.ident.as_ref()?;
        let visibility = &self.service.visibility;
        let conditions = attributes::conditions(&self.service.attributes);
        let generics = parameters::with(self.service, &self.service.service_parameter);
        let clause = &generics.where_clause;
        let fields = self.innermost_fields();
        Some(quote! {
            #(#conditions)*
            #[doc(hidden)]
            #[allow(dead_code, missing_debug_implementations)]
            #visibility struct #ident #generics #clause {
                #fields
            }
        })
    }

    /// An expression for a client around the given stub.
    fn construct(&self, stub: &TokenStream) -> TokenStream {
        let marker = parameters::is_generic(self.service)
            .then(|| quote!(marker: ::core::marker::PhantomData));
        match &self.ident {
            None => quote!(Self { stub: #stub, #marker }),
            Some(ident) => quote!(Self { inner: #ident { stub: #stub, #marker } }),
        }
    }

    /// The place of a client's stub.
    fn stub(&self) -> TokenStream {
        match &self.ident {
            None => quote!(self.stub),
            Some(_) => quote!(self.inner.stub),
        }
    }

    fn deref(&self, generics: &Generics, client: &Ident) -> Option<TokenStream> {
        let ident = self.ident.as_ref()?;
        let (introduced, arguments, clause) = generics.split_for_impl();
        Some(quote! {
            impl #introduced ::core::ops::Deref for #client #arguments #clause {
                type Target = #ident #arguments;

                fn deref(&self) -> &Self::Target {
                    &self.inner
                }
            }
        })
    }
}
