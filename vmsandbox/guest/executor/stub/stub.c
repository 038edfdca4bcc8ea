/*
 * The first program of every process of a container. It carries out a plan: a list of
 * system calls with everything that they point to, laid out by plan.go for the address
 * at which it is mapped here. It knows no library, and nothing of containers.
 *
 * An operation is one system call. Its result may be stored, which can make it an
 * argument of a later one. Failure ends the process, after it was reported on
 * descriptor 3, unless the operation says where to go on.
 */

typedef unsigned int u32;
typedef unsigned long u64;

enum {
	PLAN = 0x10000000,   /* where the plan is mapped */
	ROOM = 8 << 20,      /* how much of it at most */
	PLAN_FD = 4,
	CHANNEL_FD = 3,
	REPORT_ERROR = 2,
	NR_SET = 0x10000,    /* not system calls: *(u64 *)a[0] = a[1] */
	NR_FAIL = 0x10001,   /* fail with errno a[0] */
	NR_COPY = 0x10002,   /* *(u64 *)a[0] = *(u64 *)a[1] */
	FLAG_NONZERO = 1,    /* a result of 0 is a failure */
	FLAG_BRANCH = 2,     /* on_success only if the result is not 0 */
};

struct op {
	u32 nr, flags;
	u32 on_success, on_failure; /* how far to go on; 0: to the next, to the end */
	u32 only;                   /* the errno that on_failure is for; 0: any */
	u32 unused;
	u64 *out;
	u64 a[6];
};

struct plan {
	u64 count, unused;
	struct op op[];
};

#if defined(__x86_64__)
enum { NR_write = 1, NR_close = 3, NR_mmap = 9, NR_exit_group = 231 };

static long call(u64 nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	long r;
	register u64 r10 __asm__("r10") = d;
	register u64 r8 __asm__("r8") = e;
	register u64 r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return r;
}
#elif defined(__aarch64__)
enum { NR_write = 64, NR_close = 57, NR_mmap = 222, NR_exit_group = 94 };

static long call(u64 nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	register u64 x8 __asm__("x8") = nr;
	register u64 x0 __asm__("x0") = a;
	register u64 x1 __asm__("x1") = b;
	register u64 x2 __asm__("x2") = c;
	register u64 x3 __asm__("x3") = d;
	register u64 x4 __asm__("x4") = e;
	register u64 x5 __asm__("x5") = f;
	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return (long)x0;
}
#else
#error "no system calls known for this architecture"
#endif

static void leave(u32 index, u32 error)
{
	u32 report[4];

	report[0] = REPORT_ERROR;
	report[1] = index;
	report[2] = error;
	report[3] = 0;
	call(NR_write, CHANNEL_FD, (u64)report, sizeof report, 0, 0, 0);
	for (;;)
		call(NR_exit_group, 127, 0, 0, 0, 0, 0);
}

static long carry_out(struct op *o)
{
	if (o->nr == NR_SET) {
		*(u64 *)o->a[0] = o->a[1];
		return 0;
	}
	if (o->nr == NR_COPY) {
		*(u64 *)o->a[0] = *(u64 *)o->a[1];
		return 0;
	}
	if (o->nr == NR_FAIL)
		return -(long)o->a[0];
	return call(o->nr, o->a[0], o->a[1], o->a[2], o->a[3], o->a[4], o->a[5]);
}

__attribute__((noreturn)) void _start(void)
{
	struct plan *p = (struct plan *)PLAN;
	u64 i = 0;
	long r;

	/* MAP_PRIVATE | MAP_FIXED, PROT_READ | PROT_WRITE */
	r = call(NR_mmap, PLAN, ROOM, 3, 0x12, PLAN_FD, 0);
	if (r != PLAN)
		leave(~0u, (u32)-r);
	call(NR_close, PLAN_FD, 0, 0, 0, 0, 0);
	while (i < p->count) {
		struct op *o = &p->op[i];

		r = carry_out(o);
		if (r == 0 && (o->flags & FLAG_NONZERO))
			r = -32; /* EPIPE: nobody is there any more */
		if (r < 0 && r >= -4095) {
			if (!o->on_failure || (o->only && o->only != (u32)-r))
				leave((u32)i, (u32)-r);
			i += o->on_failure;
			continue;
		}
		if (o->out)
			*o->out = (u64)r;
		i += o->on_success && (r || !(o->flags & FLAG_BRANCH)) ? o->on_success : 1;
	}
	for (;;)
		call(NR_exit_group, 126, 0, 0, 0, 0, 0);
}
