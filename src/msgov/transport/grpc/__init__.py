"""gRPC, both colours: interceptors for servers, a channel for clients, one table of statuses."""
