package diff

// treeWork is what programs of each tree are to do: scripts that end with 0 and print the
// same wherever they run.
var treeWork = map[string][]string{
	oddTree: {
		// Whatever lies in a lower layer can be changed, and is copied up whole.
		`cd /odd && echo more >> links/a && cat links/a links/b && stat -c '%h %s %n' links/a links/b`,
		`cd /odd && mv merged moved && ls -R moved && rm -r again-dir && mkdir again-dir && ls -A again-dir && mv many/0000- many-0 && ls many | wc -l`,
		`cd /odd && chown 5:5 capable user && chmod 600 user && ln owned owned-2 && stat -c '%h %u %g %a %n' owned owned-2 capable user`,
		`cd /odd && rm -r opaque-kept && mkdir opaque-kept && ls -A opaque-kept && rmdir opaque-kept && echo more >> holes && sha256sum holes`,
	},
	debianTree: {
		`perl -MPOSIX=floor -MList::Util=sum -MDigest::SHA=sha256_hex -e 'print sum(map { $_ ** 2 } 1 .. 1000), " ", floor(2.7), " ", sha256_hex("tree"), " $^V\n"'`,
		`perl -MJSON::PP -MEncode -MFile::Find -e 'my $n = 0; find(sub { $n++ }, "/usr/share/perl"); print JSON::PP->new->canonical->encode({files => $n, text => decode("UTF-8", "\xc3\xa4")}), "\n"'`,
		`perl -e 'for (1 .. 3) { my $p = fork; if (!$p) { exit $_ } waitpid $p, 0; print $? >> 8, "\n" }'`,
		`python3 -c 'import hashlib, json, sqlite3, sys; c = sqlite3.connect(":memory:"); print(json.dumps({"v": sys.version, "sum": c.execute("select sum(value) from json_each(?)", ("[1,2,3]",)).fetchone()[0], "h": hashlib.sha256(b"tree").hexdigest()}, sort_keys=True))'`,
		`python3 -c 'import pkgutil; print(len([m.name for m in pkgutil.iter_modules()]))'`,
		`cd /tmp && echo 'X = 42' > own.py && python3 -c 'import own, subprocess, os; print(own.X, subprocess.run(["sh", "-c", "exit 7"]).returncode, sorted(os.listdir("__pycache__")))'`,
		`python3 -m compileall -q /usr/lib/python3.11/json && find /usr/lib/python3.11/json -name '*.pyc' | wc -l`,
		`cd /tmp && printf '#include <stdio.h>\n#include <math.h>\nint main(int n, char **a) { printf("hello %%d %%.6f\\n", n, sqrt(2.0)); return 0; }\n' > hello.c && gcc -O2 -o hello hello.c -lm && ./hello a b`,
		`cd /tmp && gcc -static -o hello-static hello.c -lm && ./hello-static && gcc -dumpmachine && gcc -dumpfullversion`,
		`cd /tmp && echo 'int f(int x) { return x * 2; }' > f.c && gcc -shared -fPIC -o libf.so f.c && ar rc libf.a libf.so && nm -D libf.so | grep ' f$' && sha256sum hello`,
		`nginx -t 2>&1 && nginx -v 2>&1`,
		`nginx; for i in 1 2 3 4 5 6 7 8 9 10; do bash -c 'exec 3<>/dev/tcp/127.0.0.1/80 && printf "GET / HTTP/1.0\r\n\r\n" >&3 && cat <&3' > /tmp/page 2>/dev/null && break; sleep 1; done; head -1 /tmp/page && grep title /tmp/page && nginx -s quit 2> /dev/null`,
		`test -f /run/nginx.pid && sleep 1; stat -c '%U %a' /var/log/nginx/access.log /var/lib/nginx/body && cut -d' ' -f 6-9 /var/log/nginx/access.log`,
		`postgres --version && psql --version && id postgres`,
		`install -d -o postgres /data && setpriv --reuid=postgres --regid=postgres --init-groups initdb -D /data/db -A trust --no-sync > /tmp/initdb.log 2>&1; tail -n 3 /tmp/initdb.log; find /data/db -type d | wc -l`,
		`cat > /tmp/queries <<'END'
create table t (i int primary key, s text)
insert into t select i, repeat(i::text, 100) from generate_series(1, 2000) i
select count(*), sum(length(s)), md5(string_agg(s, ',' order by i)) from t
END
setpriv --reuid=postgres --regid=postgres --init-groups postgres --single -D /data/db postgres < /tmp/queries 2> /tmp/errors | grep -a sum`,
	},
}
