/* Holds the namespaces of a Pod on the test bed's node: waits for a signal. */
#include <signal.h>
#include <unistd.h>

static void end(int number) { (void)number; _exit(0); }

int main(void) {
	signal(SIGTERM, end);
	signal(SIGINT, end);
	for (;;) pause();
}
