//! The dispatcher struct: routes requests to a handler's methods.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned as _;

use crate::attributes;
use crate::expand::{description, generated_at, messages, parameters, signature};
use crate::model::{Execution, Fallibility, Method, Role, Service};

/// Returns the struct.
pub(super) fn item(service: &Service) -> TokenStream {
    let Service {
        visibility,
        ident,
        dispatcher,
        krate,
        ..
    } = service;
    let attributes = attributes::for_dispatcher(&service.attributes);
    let docs = format!(
        " Dispatcher of the service [`{ident}`]. Passes requests to a handler, from a server or directly from a client without \
         a broker."
    );
    let parameter = &service.handler_parameter;
    let generics = parameters::with(service, parameter);
    let clause = &generics.where_clause;
    let marker = parameters::is_generic(service).then(|| {
        let ty = parameters::marker_type(service);
        quote!(marker: #ty)
    });
    quote! {
        #[doc = #docs]
        #(#attributes)*
        #[allow(dead_code)]
        #visibility struct #dispatcher #generics #clause {
            dispatcher: #krate::__private::Dispatcher<#parameter>,
            #marker
        }
    }
}

/// Returns the dispatcher's `impl`s.
pub(super) fn impls(service: &Service) -> TokenStream {
    let constructors = constructors(service);
    let serving = serving(service);
    let common = common_traits(service);
    quote!(#constructors #serving #common)
}

fn constructors(service: &Service) -> TokenStream {
    let Service {
        visibility,
        ident,
        dispatcher,
        queue,
        ..
    } = service;
    let parameter = &service.handler_parameter;
    let generics = parameters::with(service, parameter);
    let (introduced, arguments, _) = generics.split_for_impl();
    let trait_arguments = parameters::trait_arguments(service);
    let clause = parameters::bounded(&generics, &quote!(#parameter: #ident #trait_arguments));
    let definition = messages::service_ident();
    let fresh = construct(
        service,
        &quote!(__rpc::__private::Dispatcher::new::<Self>(handler, #definition)),
    );
    let moved = construct(
        service,
        &quote!(__rpc::__private::Dispatcher::with_queue(
            self.dispatcher,
            queue
        )),
    );
    let declared = construct(
        service,
        &quote!(__rpc::__private::Dispatcher::with_queue_options(
            self.dispatcher,
            options
        )),
    );
    let prefixed = construct(
        service,
        &quote!(__rpc::__private::Dispatcher::with_queue_prefix(
            self.dispatcher,
            prefix
        )),
    );
    let versioned = construct(
        service,
        &quote!(__rpc::__private::Dispatcher::with_version(
            self.dispatcher,
            version
        )),
    );
    let queue_docs = format!(
        " Serves this queue instead of `{queue}`.{}",
        messages::about_own_queues(service)
    );
    let plain_clause = &generics.where_clause;
    quote! {
        impl #introduced #dispatcher #arguments #plain_clause {
            /// Creates a dispatcher to `handler`, which all calls share.
            #[must_use]
            #visibility fn new(handler: #parameter) -> Self
            where
                #parameter: __rpc::__private::Handler<Self>,
            {
                #fresh
            }
        }

        impl #introduced ::core::convert::From<__rpc::__private::Arc<#parameter>> for #dispatcher #arguments #clause {
            /// Creates a dispatcher to a handler that the program shares.
            fn from(handler: __rpc::__private::Arc<#parameter>) -> Self {
                #fresh
            }
        }

        impl #introduced #dispatcher #arguments #plain_clause {
            #[doc = #queue_docs]
            #[must_use]
            #visibility fn with_queue(self, queue: impl ::core::convert::Into<__rpc::__private::String>) -> Self {
                #moved
            }

            /// Puts this prefix before the name of every queue that is served. Clients must have the same prefix.
            #[must_use]
            #visibility fn with_queue_prefix(self, prefix: impl ::core::convert::Into<__rpc::__private::String>) -> Self {
                #prefixed
            }

            /// Serves this version of the service, which descriptions of its instances name, instead of the trait's version.
            #[must_use]
            #visibility fn with_version(self, version: impl ::core::convert::Into<__rpc::__private::String>) -> Self {
                #versioned
            }

            /// Declares the queues with these options instead of the default ones.
            #[must_use]
            #visibility fn with_queue_options(self, options: __rpc::QueueOptions) -> Self {
                #declared
            }
        }
    }
}

fn construct(service: &Service, dispatcher: &TokenStream) -> TokenStream {
    let marker =
        parameters::is_generic(service).then(|| quote!(marker: ::core::marker::PhantomData));
    quote!(Self { dispatcher: #dispatcher, #marker })
}

fn serving(service: &Service) -> TokenStream {
    let Service {
        ident, dispatcher, ..
    } = service;
    let parameter = &service.handler_parameter;
    let generics = parameters::with(service, parameter);
    let (introduced, arguments, _) = generics.split_for_impl();
    let trait_arguments = parameters::trait_arguments(service);
    let route_clause = parameters::bounded(&generics, &quote!(#parameter: #ident #trait_arguments));
    let shared = quote!(#parameter: ::core::marker::Send + ::core::marker::Sync + 'static);
    let clause = parameters::bounded(&generics, &shared);
    let routes = service.methods.iter().map(|method| route(service, method));
    let types = description::types(service);
    quote! {
        impl #introduced __rpc::__private::Route<#parameter> for #dispatcher #arguments #route_clause {
            fn route(invocation: __rpc::__private::Invocation<#parameter>) -> __rpc::ResponseFuture {
                __rpc::__private::Invocation::route(invocation, &[#(#routes),*])
            }

            fn types() -> __rpc::__private::Vec<__rpc::__private::DescribedMethod> {
                #types
            }
        }

        impl #introduced __rpc::__private::tower_service::Service<__rpc::Request> for #dispatcher #arguments #clause {
            type Response = __rpc::Response;
            type Error = __rpc::RpcError;
            type Future = __rpc::ResponseFuture;

            fn poll_ready(
                &mut self,
                _: &mut ::core::task::Context<'_>,
            ) -> ::core::task::Poll<::core::result::Result<(), __rpc::RpcError>> {
                ::core::task::Poll::Ready(::core::result::Result::Ok(()))
            }

            fn call(&mut self, request: __rpc::Request) -> __rpc::ResponseFuture {
                __rpc::__private::Dispatcher::call(&self.dispatcher, request)
            }
        }

        impl #introduced __rpc::Dispatch for #dispatcher #arguments #clause {
            fn dispatcher(&self) -> &dyn __rpc::__private::DispatcherInfo {
                &self.dispatcher
            }
        }
    }
}

/// Returns the route that runs one method.
fn route(service: &Service, method: &Method) -> TokenStream {
    let Service {
        ident: service_ident,
        ..
    } = service;
    let Method { ident, .. } = method;
    let conditions = attributes::conditions(&method.attributes);
    let handler = &service.handler_parameter;
    let trait_arguments = parameters::trait_arguments(service);
    let message = messages::arguments_type(service, method);
    let signature = signature::signature_type(service, method);
    let values = method.arguments.iter().map(|argument| match argument.role {
        Role::Context(_) => {
            quote_spanned!(generated_at(argument.ty.span())=> __rpc::__private::FromContext::from_context(__context))
        }
        Role::Items { .. } => quote!(__items),
        Role::Sent { .. } => {
            let ident = argument.ident();
            quote!(__arguments.#ident)
        }
    });
    let call = quote!(<#handler as #service_ident #trait_arguments>::#ident);
    let inputs = match method.items() {
        None => quote!(__context: __rpc::Context, __arguments: #message),
        Some((_, stream)) => {
            let item = &stream.item;
            quote!(__context: __rpc::Context, (__arguments, __items): (#message, __rpc::Incoming<#item>))
        }
    };
    let run = match (&method.streamed, method.execution) {
        (Some(streamed), _) => {
            let item = &streamed.stream.item;
            let error = signature::error(method);
            let emit = match method.fallibility {
                Fallibility::Never => quote!(emit),
                _ => quote!(emit_result),
            };
            // The future owns the handler, which the stream may borrow.
            quote! {
                #signature::run(
                    __invocation,
                    |__handler: __rpc::__private::Arc<#handler>, #inputs, __emitter: __rpc::__private::Emitter<#item, #error>| async move {
                        __rpc::__private::Emitter::#emit(__emitter, #call(&__handler, #(#values),*).await).await
                    },
                )
            }
        }
        (None, Execution::Async) => quote! {
            #signature::run(
                __invocation,
                |__handler: __rpc::__private::Arc<#handler>, #inputs| async move {
                    #call(&__handler, #(#values),*).await
                },
            )
        },
        (None, Execution::Blocking) => quote! {
            #signature::run_blocking(
                __invocation,
                |__handler: &#handler, #inputs| #call(__handler, #(#values),*),
            )
        },
    };
    quote_spanned! {generated_at(ident.span())=>
        #(#conditions)*
        |__invocation| #run
    }
}

fn common_traits(service: &Service) -> TokenStream {
    let dispatcher = &service.dispatcher;
    let generics = parameters::with(service, &service.handler_parameter);
    let (introduced, arguments, clause) = generics.split_for_impl();
    let cloned = construct(
        service,
        &quote!(__rpc::__private::Dispatcher::clone_within::<Self>(
            &self.dispatcher
        )),
    );
    quote! {
        impl #introduced ::core::clone::Clone for #dispatcher #arguments #clause {
            fn clone(&self) -> Self {
                #cloned
            }
        }

        impl #introduced ::core::fmt::Debug for #dispatcher #arguments #clause {
            fn fmt(&self, formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Debug::fmt(&self.dispatcher, formatter)
            }
        }
    }
}
