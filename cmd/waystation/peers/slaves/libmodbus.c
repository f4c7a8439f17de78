/* A Modbus slave made with libmodbus, with faults of our choice. Arguments:
 *
 *	tcp PORT READY
 *	rtu DEVICE BAUD PARITY READY
 *
 * Holding register a holds a, input register a holds a + 20000. Of holding registers
 * the first address that is asked for says what goes wrong; see enum fault. The answer
 * itself is always made by libmodbus. READY is a file that is made when it listens.
 */
#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum fault {
	WRONG_UNIT = 1000, /* the answer names the next unit */
	LATE = 1100,       /* after 600 ms */
	DRIBBLE = 1200,    /* 5 ms before each byte */
	WRONG_ID = 1300,   /* the answer has the next transaction identifier; of RTU: a wrong byte */
	SILENT = 1400,     /* no answer */
	BUSY = 1500,       /* exception 6 */
	TWICE = 1600,      /* the same answer twice */
	ZONE = 100,        /* registers that have the same fault */
	REGISTERS = 3000
};

static modbus_mapping_t *map;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, modbus_strerror(errno));
	exit(1);
}

/* captured has libmodbus make its answer and returns its length. */
static int captured(modbus_t *ctx, const uint8_t *query, int length, uint8_t *answer)
{
	int pair[2], real = modbus_get_socket(ctx), n;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		die("socketpair");
	modbus_set_socket(ctx, pair[0]);
	n = modbus_reply(ctx, query, length, map);
	modbus_set_socket(ctx, real);
	if (n > 0)
		n = read(pair[1], answer, MODBUS_MAX_ADU_LENGTH);
	close(pair[0]);
	close(pair[1]);
	return n;
}

static int put(modbus_t *ctx, const uint8_t *bytes, int n)
{
	return write(modbus_get_socket(ctx), bytes, n) == n ? n : -1;
}

/* answer replies to one request, well or badly. */
static int answer(modbus_t *ctx, uint8_t *query, int length, int tcp)
{
	int head = modbus_get_header_length(ctx), n, i;
	int at = query[head + 1] << 8 | query[head + 2];
	uint8_t bytes[MODBUS_MAX_ADU_LENGTH];
	if (query[head] != 3 || at < WRONG_UNIT)
		return modbus_reply(ctx, query, length, map);
	switch (at / ZONE * ZONE) {
	case LATE:
		usleep(600 * 1000);
		break;
	case SILENT:
		return 0;
	case BUSY:
		return modbus_reply_exception(ctx, query, MODBUS_EXCEPTION_SLAVE_OR_SERVER_BUSY);
	case WRONG_UNIT:
		query[head - 1]++;
		break;
	case WRONG_ID:
		if (tcp) {
			query[1]++;
			break;
		}
		n = captured(ctx, query, length, bytes);
		bytes[n / 2] ^= 0x55;
		return put(ctx, bytes, n);
	case DRIBBLE:
		n = captured(ctx, query, length, bytes);
		for (i = 0; i < n; i++) {
			usleep(5 * 1000);
			if (put(ctx, bytes + i, 1) < 0)
				return -1;
		}
		return n;
	case TWICE:
		modbus_reply(ctx, query, length, map);
		break;
	}
	return modbus_reply(ctx, query, length, map);
}

/* serve answers until the connection or the port fails. */
static void serve(modbus_t *ctx, int tcp)
{
	uint8_t query[MODBUS_MAX_ADU_LENGTH];
	for (;;) {
		int n = modbus_receive(ctx, query);
		if (n < 0 && (tcp || errno == EIO || errno == ENODEV))
			return;
		if (n > 0 && answer(ctx, query, n, tcp) < 0 && tcp)
			return;
	}
}

static void ready(const char *path)
{
	FILE *f = fopen(path, "w");
	if (!f || fclose(f))
		die("make the file that says ready");
}

int main(int argc, char **argv)
{
	modbus_t *ctx;
	int i, listener, tcp = argc == 4 && !strcmp(argv[1], "tcp");
	if (!tcp && !(argc == 6 && !strcmp(argv[1], "rtu")))
		return 2;
	map = modbus_mapping_new(REGISTERS, REGISTERS, REGISTERS, REGISTERS);
	if (!map)
		die("make the map");
	for (i = 0; i < REGISTERS; i++) {
		map->tab_registers[i] = i;
		map->tab_input_registers[i] = i + 20000;
		map->tab_bits[i] = i % 3 == 0;
		map->tab_input_bits[i] = i % 5 == 0;
	}
	if (!tcp) {
		ctx = modbus_new_rtu(argv[2], atoi(argv[3]), argv[4][0], 8, 1);
		if (!ctx || modbus_set_slave(ctx, 1) || modbus_connect(ctx))
			die("open the port");
		ready(argv[5]);
		serve(ctx, 0);
		return 1;
	}
	ctx = modbus_new_tcp("127.0.0.1", atoi(argv[2]));
	if (!ctx || (listener = modbus_tcp_listen(ctx, 4)) < 0)
		die("listen");
	ready(argv[3]);
	while (modbus_tcp_accept(ctx, &listener) >= 0) {
		serve(ctx, 1);
		modbus_close(ctx);
	}
	die("accept");
	return 1;
}
