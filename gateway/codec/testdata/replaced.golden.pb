
ship-0423f2a9c	telemetry Á„=*s2dï¿½:nJÀ²‹Ø€œœ9R
badï¿½2xï¿½yR
good2ï¿½ˆ