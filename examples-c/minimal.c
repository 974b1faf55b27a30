/* The whole client: minimal PUBLIC PORT < IMAGE.PGM. (client.c checks every call and says what went wrong.) */
#include <netinet/in.h>
#include <safenet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static ptrdiff_t get(void *fd, uint8_t *bytes, size_t size) { return read(*(int *)fd, bytes, size); }
static ptrdiff_t put(void *fd, const uint8_t *bytes, size_t size) { return send(*(int *)fd, bytes, size, MSG_NOSIGNAL); }

int main(int argc, char **argv) {
    static uint8_t file[1 << 20];
    float image[28 * 28], scores[10];
    char error[512] = "";
    int port = 0, fd = socket(AF_INET, SOCK_STREAM, 0);
    FILE *public_part = argc == 3 && sscanf(argv[2], "%d", &port) == 1 ? fopen(argv[1], "rb") : NULL;
    size_t size = public_part ? fread(file, 1, sizeof file, public_part) : 0;
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    safenet_client_model *model = NULL;
    safenet_client *client = NULL;
    int header = 0;
    if (scanf("P5 28 28 255%*1[\n]%n", &header) == EOF || !header) return fprintf(stderr, "expected a 28x28 PGM image\n"), 1;
    for (int i = 0; i < 28 * 28; i++) image[i] = (float)getchar() / 255;
    if (connect(fd, (struct sockaddr *)&server, sizeof server) /* 0.0.0.0 is this machine */
        || safenet_client_model_load(file, size, &model, error, sizeof error)
        || safenet_client_new(model, NULL, &client, error, sizeof error)
        || safenet_client_prepare(client, 1) || safenet_client_run(client, get, put, &fd)
        || safenet_client_infer(client, NULL, image, 28 * 28) || safenet_client_run(client, get, put, &fd)
        || safenet_client_output(client, scores, 10)
        || safenet_client_close(client) || safenet_client_run(client, get, put, &fd))
        return fprintf(stderr, "failed: %s\n", client ? safenet_client_error(client) : error), 1;
    for (int i = 0; i < 10; i++) printf("%d: %g\n", i, scores[i]);
    safenet_client_free(client);
    safenet_client_model_free(model);
    return fclose(public_part) || close(fd);
}
