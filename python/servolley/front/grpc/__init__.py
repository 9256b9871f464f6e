"""gRPC's control calls: everything but inference. The core speaks HTTP/2 and hands over each call's events;
protobuf is imported with the first of them."""
