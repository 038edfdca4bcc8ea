/*
 * Compiles what the test writes, one rule a line, with libseccomp:
 *   default RET | arch NAME | rule NAME RET { INDEX OP VALUE VALUE }
 * RET is what a filter returns. The test's flag -update builds and runs it.
 */
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int rc, const char *what)
{
	if (rc < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(-rc));
		exit(1);
	}
}

int main(void)
{
	static const char *ops[] = {"", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"};
	scmp_filter_ctx ctx = NULL;
	char line[512];

	while (fgets(line, sizeof line, stdin)) {
		char *word = strtok(line, " \n");
		if (!strcmp(word, "default")) {
			ctx = seccomp_init(strtoul(strtok(NULL, " \n"), NULL, 0));
		} else if (!strcmp(word, "arch")) {
			int rc = seccomp_arch_add(ctx, seccomp_arch_resolve_name(strtok(NULL, " \n")));
			check(rc == -EEXIST ? 0 : rc, "arch");
		} else {
			char *name = strtok(NULL, " \n");
			unsigned int ret = strtoul(strtok(NULL, " \n"), NULL, 0);
			struct scmp_arg_cmp args[6];
			unsigned int n = 0, op;
			char *arg;
			int nr = seccomp_syscall_resolve_name(name);
			for (; (arg = strtok(NULL, " \n")); n++) {
				char *o = strtok(NULL, " \n"), *a = strtok(NULL, " \n"), *b = strtok(NULL, " \n");
				for (op = 1; op < 8 && strcmp(o, ops[op]); op++)
					;
				args[n] = (struct scmp_arg_cmp){atoi(arg), op, strtoull(a, NULL, 0), strtoull(b, NULL, 0)};
			}
			if (nr != __NR_SCMP_ERROR)
				check(seccomp_rule_add_array(ctx, ret, nr, n, args), name);
		}
	}
	check(seccomp_export_bpf(ctx, 1), "export");
	return 0;
}
