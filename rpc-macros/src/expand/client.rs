//! The client struct and its methods.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::{Generics, parse_quote};

use crate::attributes;
use crate::expand::{description, messages, parameters, signature};
use crate::model::{Method, Role, Service};

/// Returns the struct.
pub(super) fn item(service: &Service) -> TokenStream {
    let Service {
        visibility,
        client,
        krate,
        ..
    } = service;
    let attributes = attributes::for_client(&service.attributes);
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
        " Client of the service [`{}`]. Calls the methods of the trait through `{}`.",
        service.ident, service.service_parameter
    );
    let gap = attributes::is_documented(&service.attributes).then(|| quote!(#[doc = ""]));
    quote!(#[doc = #first] #gap)
}

/// Returns the client's `impl`s.
pub(super) fn impls(service: &Service) -> TokenStream {
    let constructors = constructors(service);
    let methods = methods(service);
    let common = common_traits(service);
    let description = description::client_impl(service, &messages::service_ident());
    quote!(#constructors #methods #common #description)
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
        " Creates a client that calls the service through `service`: `connection.client()`, also with tower layers around it, \
         or a [`{dispatcher}`], which calls a handler in this process without a broker."
    );
    let queue_docs = format!(
        " Sends requests to this queue instead of `{queue}`.{}",
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

            /// Puts this prefix before the name of every request queue. The dispatcher must have the same prefix.
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
    let (named_new, others): (Vec<_>, Vec<_>) =
        service.methods.iter().partition(|method| is_new(method));
    let others = others.into_iter().map(|other| method(service, other));
    let inner = Inner::of(service).ident.map(|inner| {
        let methods = named_new.into_iter().map(|named| method(service, named));
        quote!(impl #introduced #inner #arguments #clause { #(#methods)* })
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
    let attributes = attributes::for_client(&method.attributes);
    let docs = (!attributes::is_documented(&method.attributes)).then(|| {
        let text = format!(" Calls `{}`.", method.name);
        quote!(#[doc = #text])
    });
    let parameters = method.arguments.iter().filter_map(|argument| {
        let (ident, ty) = (argument.ident(), &argument.ty);
        match &argument.role {
            Role::Sent { .. } => Some(quote!(#ident: #ty)),
            Role::Items { stream, .. } => {
                let ty = stream
                    .with_bounds(&[parse_quote!(::core::marker::Send), parse_quote!('static)]);
                Some(quote!(#ident: #ty))
            }
            Role::Context(_) => None,
        }
    });
    let awaited = signature::awaited(method);
    let parameter = &service.service_parameter;
    let definition = messages::method_ident(method);
    let message = messages::arguments_value(service, method);
    let signature = signature::signature_type(service, method);
    quote! {
        #docs
        #(#attributes)*
        #visibility fn #ident(&self, #(#parameters),*) -> __rpc::Call<#awaited, #parameter> {
            #signature::call(&self.stub, #definition, #message)
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

/// The fields of a client struct.
///
/// A service may have a method `new`, which would collide with the client's constructor. Only in this case, the stub is
/// inside a hidden struct that has the method, and the client dereferences to this struct. `FibClient::new(…)` calls the
/// constructor. `client.new(…)` calls the method, because the constructor takes no `self`.
struct Inner<'a> {
    service: &'a Service,
    /// The name of the hidden struct, if there is one.
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

    /// Returns the hidden struct. It has the client's visibility, because the client's `Deref` names it.
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

    /// Returns an expression for a client with the given stub.
    fn construct(&self, stub: &TokenStream) -> TokenStream {
        let marker = parameters::is_generic(self.service)
            .then(|| quote!(marker: ::core::marker::PhantomData));
        match &self.ident {
            None => quote!(Self { stub: #stub, #marker }),
            Some(ident) => quote!(Self { inner: #ident { stub: #stub, #marker } }),
        }
    }

    /// Returns the place expression of a client's stub.
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
