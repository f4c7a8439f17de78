
ship-0423f2a9c	telemetry Á„=€ˆ